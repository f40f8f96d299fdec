//! The init step `--set-sysctls` of a privileged init container.

use std::{io, process::ExitCode};

use nix::errno::Errno;

use crate::{
    kernel::sysctl_file,
    sysctl::{Sysctl, SysctlNeeds, all_sysctls},
};

/// Sets all sysctls that a virtual server can need, in the network namespace of this process.
/// Prints the result of each sysctl to standard error.
pub fn set_sysctls() -> ExitCode {
    let needs = SysctlNeeds {
        masquerade_v4: true,
        masquerade_v6: true,
        udp: true,
    };
    let mut exit_code = ExitCode::SUCCESS;
    for sysctl in all_sysctls(needs) {
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
            // A kernel without IPv6 does not need sysctls for IPv6.
            if sysctl.name.starts_with("net/ipv6/") {
                return Ok(());
            }
            return Err(
                "the kernel does not have this sysctl; load the module ip_vs on the node \
                 (`modprobe ip_vs`)"
                    .to_owned(),
            );
        }
        Ok(_) | Err(_) => {}
    }
    write(sysctl.name, sysctl.value).map_err(|errno| {
        let error = io::Error::from(errno);
        format!(
            "cannot set it to {}: {error}; --set-sysctls needs a container with securityContext: \
             {{privileged: true}}",
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
        consequence: "",
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
    fn a_sysctl_with_the_right_value_is_not_written() {
        assert_eq!(set(&SLOPPY_TCP, |_| Ok("1".to_owned()), read_only), Ok(()));
    }

    #[test]
    fn an_unprivileged_container_gets_an_error_that_asks_for_a_privileged_container() {
        let problem = set(&SLOPPY_TCP, |_| Ok("0".to_owned()), read_only).unwrap_err();
        assert!(problem.contains("privileged: true"), "{problem}");
    }

    #[test]
    fn a_missing_sysctl_is_an_error_that_names_the_module_unless_it_is_an_ipv6_sysctl() {
        let problem = set(&SLOPPY_TCP, not_found, read_only).unwrap_err();
        assert!(problem.contains("ip_vs"), "{problem}");
        assert_eq!(set(&FORWARDING, not_found, read_only), Ok(()));
    }
}
