//! Maps of user ids and group ids (user_namespaces(7)).

use anyhow::{Result, ensure};
use oci_spec::runtime::LinuxIdMapping;

use super::IdMap;

/// The kernel takes at most this many lines in a map (UID_GID_MAP_MAX_EXTENTS).
const MAX_LINES: usize = 340;

/// `uidMappings` or `gidMappings`; `name` is the property, for errors.
pub fn maps(name: &str, mappings: &[LinuxIdMapping]) -> Result<Vec<IdMap>> {
    ensure!(
        mappings.len() <= MAX_LINES,
        "{name}: {} entries, the kernel takes {MAX_LINES}",
        mappings.len()
    );
    let maps: Vec<IdMap> = mappings
        .iter()
        .map(|m| IdMap {
            container: m.container_id(),
            host: m.host_id(),
            size: m.size(),
        })
        .collect();
    for (i, map) in maps.iter().enumerate() {
        ensure!(map.size > 0, "{name}[{i}].size: must be greater than 0");
        // The last id, 2^32 - 1, stands for "no id".
        for (side, first) in [("containerID", map.container), ("hostID", map.host)] {
            ensure!(
                first.checked_add(map.size).is_some(),
                "{name}[{i}].size: {side} {first} and {} more go beyond the last id",
                map.size
            );
        }
        for (j, other) in maps[..i].iter().enumerate() {
            ensure!(
                !overlap(map.container, other.container, map.size, other.size)
                    && !overlap(map.host, other.host, map.size, other.size),
                "{name}[{i}]: overlaps {name}[{j}]"
            );
        }
    }
    Ok(maps)
}

/// The id outside that a map gives to an id inside.
pub fn host_id(maps: &[IdMap], id: u32) -> Option<u32> {
    maps.iter().find_map(|map| {
        let offset = id.checked_sub(map.container)?;
        (offset < map.size).then(|| map.host.wrapping_add(offset))
    })
}

fn overlap(a: u32, b: u32, a_size: u32, b_size: u32) -> bool {
    if a < b {
        b - a < a_size
    } else {
        a - b < b_size
    }
}
