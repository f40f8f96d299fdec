//! `--set-sysctls`: what a privileged init container does for the daemon, which may not.

use std::{io, process::ExitCode};

use nix::errno::Errno;

use crate::{
    kernel::sysctl_file,
    sysctl::{Needs, Sysctl, wanted},
};

/// Sets all sysctls that any virtual server may need, in this process's network namespace, and says
/// on standard error what came of it.
pub fn set_sysctls() -> ExitCode {
    let needs = Needs {
        masquerade_v4: true,
        masquerade_v6: true,
        udp: true,
    };
    let mut exit_code = ExitCode::SUCCESS;
    for sysctl in wanted(needs) {
        let name = sysctl.dotted_name();
        match set(&sysctl, sysctl_file::read, sysctl_file::write) {
            Ok(()) => eprintln!("ipvs-programmer: {name} = {}", sysctl.value),
            Err(problem) => {
                eprintln!("ipvs-programmer: {name}: {problem}");
                exit_code = ExitCode::FAILURE;
            }
        }
    }
    exit_code
}

fn set(
    sysctl: &Sysctl,
    read: impl Fn(&str) -> Result<String, Errno>,
    write: impl Fn(&str, &str) -> Result<(), Errno>,
) -> Result<(), String> {
    match read(sysctl.name) {
        Ok(value) if value == sysctl.value => return Ok(()),
        Err(Errno::ENOENT) => {
            // A kernel without IPv6 has no IPv6 to forward.
            if sysctl.name.starts_with("net/ipv6/") {
                return Ok(());
            }
            return Err(
                "the kernel has no such sysctl; is the module ip_vs loaded on the node?".to_owned(),
            );
        }
        Ok(_) | Err(_) => {}
    }
    write(sysctl.name, sysctl.value).map_err(|errno| {
        let error = io::Error::from(errno);
        format!(
            "cannot be set to {}: {error}; this step needs securityContext: {{privileged: true}}",
            sysctl.value
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOPPY_TCP: Sysctl = Sysctl {
        name: "net/ipv4/vs/sloppy_tcp",
        value: "1",
        cost: "",
    };
    const FORWARDING: Sysctl = Sysctl {
        name: "net/ipv6/conf/all/forwarding",
        ..SLOPPY_TCP
    };

    fn not_found(_: &str) -> Result<String, Errno> {
        Err(Errno::ENOENT)
    }

    fn read_only(_: &str, _: &str) -> Result<(), Errno> {
        Err(Errno::EROFS)
    }

    #[test]
    fn what_is_right_is_not_written() {
        assert_eq!(set(&SLOPPY_TCP, |_| Ok("1".to_owned()), read_only), Ok(()));
    }

    #[test]
    fn a_container_without_privilege_is_told_so() {
        let problem = set(&SLOPPY_TCP, |_| Ok("0".to_owned()), read_only).unwrap_err();
        assert!(problem.contains("privileged: true"), "{problem}");
    }

    #[test]
    fn a_missing_sysctl_is_a_missing_module_unless_it_is_of_ipv6() {
        let problem = set(&SLOPPY_TCP, not_found, read_only).unwrap_err();
        assert!(problem.contains("ip_vs"), "{problem}");
        assert_eq!(set(&FORWARDING, not_found, read_only), Ok(()));
    }
}
