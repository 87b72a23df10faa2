//! What the machine must have. The error is one line for those who lack it: what is missing, and what to do. What passes is
//! no lack: the work itself will tell.

use std::{io, path::Path};

use nix::errno::Errno;

use crate::{cgroupfs::is_mounted, dispatch::Script};

use super::{Complaint, Kernel, complaint, is_passing, netlink::Netlink};

/// The right to change the ruleset, and a kernel that has one.
///
/// # Errors
/// What is missing.
pub fn require_net_admin() -> Result<(), String> {
    let generation = Netlink::open().and_then(|mut netlink| netlink.generation());
    match generation {
        Err(error) if !is_passing(&error) => Err(no_nf_tables(&error)),
        _ => Ok(()),
    }
}

/// cgroup v2 at `root`, which is [`crate::model::CGROUP_ROOT`] outside of tests.
///
/// # Errors
/// What is missing.
pub fn require_cgroup2(root: &Path) -> Result<(), String> {
    if is_mounted(root) {
        return Ok(());
    }
    Err(format!(
        "cgroup v2 is not mounted at {}: boot with systemd.unified_cgroup_hierarchy=1",
        root.display()
    ))
}

/// A kernel (and an nft) that matches cgroups. Comes after [`require_net_admin`], since that is missing here too.
///
/// # Errors
/// What is missing.
pub fn require_nft_socket(kernel: &mut impl Kernel) -> Result<(), String> {
    let script = Script::of([
        "add table inet scnpm.probe",
        "add set inet scnpm.probe cgroups { type cgroupsv2; }",
        "add chain inet scnpm.probe probe",
        "add rule inet scnpm.probe probe socket cgroupv2 level 1 @cgroups",
    ]);
    match kernel.run(&script, true) {
        Err(complaints) if !complaints.iter().any(Complaint::is_passing) => Err(format!(
            "this kernel cannot match cgroups in nftables: it needs Linux 5.13 with CONFIG_NFT_SOCKET \
             (module nft_socket); nft says: {}",
            complaint::words(&complaints).replace('\n', " ")
        )),
        _ => Ok(()),
    }
}

pub(super) fn no_nf_tables(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => "CAP_NET_ADMIN is missing: run as root, or give the service \
                                               AmbientCapabilities=CAP_NET_ADMIN"
            .to_owned(),
        Some(Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EAFNOSUPPORT) => {
            format!("this kernel has no nftables: it needs CONFIG_NF_TABLES (module nf_tables) ({error})")
        }
        _ => format!("nftables cannot be reached over netlink: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lack_says_what_to_do() {
        let words = |errno: Errno| no_nf_tables(&errno.into());
        assert!(words(Errno::EPERM).contains("CAP_NET_ADMIN is missing: run as root"));
        assert!(words(Errno::EPROTONOSUPPORT).contains("module nf_tables"));
        assert!(words(Errno::EMFILE).contains("cannot be reached"));
        assert_eq!(
            require_cgroup2(Path::new("/proc/self")).unwrap_err(),
            "cgroup v2 is not mounted at /proc/self: boot with systemd.unified_cgroup_hierarchy=1"
        );
    }
}
