//! Serial ports by their names: `ttyUSB0` is another adapter after the next replug or restart.

use std::path::{Path, PathBuf};

use super::written;
use crate::document::codes;
use crate::model::diagnostic::Diagnostics;

/// Where udev keeps a link for each USB adapter, named by its maker and serial number.
pub const BY_ID: &str = "/dev/serial/by-id";

/// Adapters that are looked at for a better name; more are not at one machine.
const MOST_LINKS: usize = 256;

/// Warns of names that the kernel gives in the order of plugging in. `links` is [`BY_ID`], where it may be looked at.
pub fn check(written: &written::Site, links: Option<&Path>, found: &mut Diagnostics) {
    let connections = written.connections.iter().flat_map(|at| &at.value.0);
    let ports = connections.filter_map(|(_, connection)| connection.as_ref()?.rtu.as_ref());
    for port in ports.filter(|port| changes(&port.value.0)) {
        let name = &port.value.0;
        let message = format!("{name} may be another adapter after a replug or a restart");
        let help = match links.and_then(|links| link_to(Path::new(name), links)) {
            Some(link) => format!("name it {}", link.display()),
            None => format!("name it by its link in {BY_ID}, which survives both"),
        };
        found.warning(codes::PORT_NUMBER, &port.span, message).help(help);
    }
}

/// `/dev/ttyUSB0`, `/dev/ttyACM1`.
fn changes(path: &str) -> bool {
    let number = ["/dev/ttyUSB", "/dev/ttyACM"].iter().find_map(|prefix| path.strip_prefix(prefix));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The link of a folder that points to a device file. Opens neither.
fn link_to(device: &Path, links: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(links).ok()?.take(MOST_LINKS);
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|link| std::fs::read_link(link).is_ok_and(|to| to.file_name() == device.file_name()))
        .collect();
    found.sort();
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_of_an_adapter_is_found() {
        let folder = std::env::temp_dir().join(format!("taktbus-by-id-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (link, to) in [("usb-FTDI_A-port0", "../../ttyUSB1"), ("usb-FTDI_B-port0", "../../ttyUSB10")] {
            std::os::unix::fs::symlink(to, folder.join(link)).unwrap();
        }
        assert_eq!(link_to(Path::new("/dev/ttyUSB10"), &folder), Some(folder.join("usb-FTDI_B-port0")));
        assert_eq!(link_to(Path::new("/dev/ttyUSB0"), &folder), None);
        assert_eq!(link_to(Path::new("/dev/ttyUSB0"), &folder.join("nothing")), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn only_numbers_that_the_kernel_gives_are_meant() {
        assert!(changes("/dev/ttyUSB0") && changes("/dev/ttyACM12"));
        for stable in
            ["/dev/ttyS0", "/dev/ttyAMA0", "/dev/ttyUSB", "/dev/ttyUSB_meters", "/dev/serial/by-id/x"]
        {
            assert!(!changes(stable), "{stable}");
        }
    }
}
