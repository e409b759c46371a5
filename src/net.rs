//! `linux.netDevices`: interfaces that move into the container's network namespace.

use anyhow::Result;

/// Moves each device to the network namespace of process `pid`, under its new name.
pub fn move_devices(devices: &[(String, String)], pid: i32) -> Result<()> {
    for (name, new_name) in devices {
        move_device(name, new_name, pid)?;
    }
    Ok(())
}

fn move_device(_name: &str, _new_name: &str, _pid: i32) -> Result<()> {
    anyhow::bail!("linux.netDevices: being written")
}
