//! This program itself.

use std::ffi::{c_int, c_void};
use std::slice;

/// NT_GNU_BUILD_ID (elf.h).
const BUILD_ID: u32 = 3;

/// The build id of this program: the linker's hash of all that it is made of. Two programs that have
/// the same are the same. `None`: it was linked without one.
pub fn build_id() -> Option<&'static [u8]> {
    let mut found: Option<&'static [u8]> = None;
    // SAFETY: `look` gets back the pointer to `found`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

/// The first object is the program, and the only one that is looked at.
///
/// # Safety
/// `info` describes an object that stays loaded, as dl_iterate_phdr(3) says of it; `found` is that of
/// [`build_id`].
unsafe extern "C" fn look(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    found: *mut c_void,
) -> c_int {
    // SAFETY: see above. The program's own segments are mapped as long as it runs, and its notes are
    // in a read-only one.
    unsafe {
        let (info, found) = (&*info, &mut *found.cast::<Option<&'static [u8]>>());
        let headers = slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
        *found = headers
            .iter()
            .filter(|header| header.p_type == libc::PT_NOTE)
            .find_map(|header| {
                let start = (info.dlpi_addr + header.p_vaddr) as *const u8;
                build_id_among(slice::from_raw_parts(start, header.p_memsz as usize))
            });
    }
    1
}

/// Finds it in a PT_NOTE segment (elf(5), "Notes"): name size, value size, type, then name and value,
/// both padded to 4 bytes.
fn build_id_among(mut notes: &[u8]) -> Option<&[u8]> {
    let padded = |size: u32| (size as usize).checked_next_multiple_of(4);
    loop {
        let (head, rest) = notes.split_first_chunk::<12>()?;
        let word = |i: usize| u32::from_ne_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let (name_size, size, kind) = (word(0), word(4), word(8));
        let (name, rest) = rest.split_at_checked(padded(name_size)?)?;
        if kind == BUILD_ID && name == b"GNU\0" {
            return rest.get(..size as usize);
        }
        notes = rest.get(padded(size)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, value.len() as u32, kind] {
            note.extend(word.to_ne_bytes());
        }
        for part in [name, value] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn there_is_one() {
        let found = build_id().unwrap();
        assert!(found.len() >= 8, "{found:x?}");
        let file = std::fs::read("/proc/self/exe").unwrap();
        let expected = note(b"GNU\0", BUILD_ID, found);
        assert!(file.windows(expected.len()).any(|w| w == expected));
    }

    #[test]
    fn notes() {
        let other = note(b"GNU\0", 1, b"12345");
        let stranger = note(b"Go\0", BUILD_ID, b"no");
        let own = note(b"GNU\0", BUILD_ID, b"abc");
        let all = [other.clone(), stranger, own.clone()].concat();
        assert_eq!(build_id_among(&all), Some(&b"abc"[..]));
        assert_eq!(build_id_among(&other), None);
        for end in 0..own.len() - 1 {
            assert_eq!(build_id_among(&own[..end]), None, "{end}");
        }
        let endless = [[0xff; 4], [0xff; 4], [3, 0, 0, 0]].concat();
        assert_eq!(build_id_among(&endless), None);
    }
}
