//! The argument vector of QEMU, as a pure function.
//!
//! Everything a machine touches is handed over as an open file with a fixed number, so that no path, socket name
//! or temporary folder stands in the arguments: nothing to escape, no length limit of a socket's name, nothing to clean up,
//! and arguments that are equal for equal machines (they are part of a saved state's key). It refuses to open anything itself.

use crate::accel::Accel;

/// The control socket's number in QEMU.
pub(crate) const QMP_FD: i32 = 3;
/// The link's.
pub(crate) const LINK_FD: i32 = 4;
/// The console's, which also takes what QEMU itself has to say.
pub(crate) const CONSOLE_FD: i32 = 5;
/// The guest memory's.
pub(crate) const RAM_FD: i32 = 6;
/// The kernel image's.
pub(crate) const KERNEL_FD: i32 = 7;
/// The initramfs's.
pub(crate) const INITRD_FD: i32 = 8;
/// The black box's, for a machine that gets one.
pub(crate) const BOX_FD: i32 = 9;

/// The name of the link's port in the guest.
pub(crate) const PORT_NAME: &str = "fuseproof.0";

/// Set in the environment of the guest's PID 1, by way of the kernel command line.
pub(crate) const GUEST_MARK: &str = "FUSEPROOF_GUEST";

/// How a machine comes to life.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Boot the kernel; the memory is shared with the file behind it, so that it is saved by being used.
    Boot { append: &'a str },
    /// Boot the kernel with the terminal as its console.
    Interactive { append: &'a str },
    /// Wait for a saved state; the memory is that file's, copied on write.
    Restore,
    /// The same; the memory is shared with the file behind it.
    RestoreShared,
}

/// What follows `qemu-system-x86_64`.
pub(crate) fn arguments(accel: Accel, memory_mib: u32, start: Start<'_>) -> Vec<String> {
    let (share, console) = match start {
        Start::Boot { .. } => ("on", format!("socket,id=console,fd={CONSOLE_FD}")),
        Start::Interactive { .. } => ("on", "stdio,id=console,mux=on,signal=off".to_owned()),
        Start::Restore => ("off", format!("socket,id=console,fd={CONSOLE_FD}")),
        Start::RestoreShared => ("on", format!("socket,id=console,fd={CONSOLE_FD}")),
    };
    let mut arguments =
        words("-no-user-config -nodefaults -no-reboot -display none -machine pc,memory-backend=ram");
    arguments.extend(words(match accel {
        Accel::Kvm => "-accel kvm -cpu max",
        // One vCPU on a small kernel: more room for translated code costs memory and saves nothing.
        Accel::Tcg => "-accel tcg,tb-size=64 -cpu max,-la57,-smap,-smep,-umip,-pku",
    }));
    arguments.extend(words(&format!(
        "-m {memory_mib} \
         -object memory-backend-file,id=ram,mem-path=/proc/self/fd/{RAM_FD},size={memory_mib}M,share={share} \
         -chardev socket,id=qmp,fd={QMP_FD} -mon chardev=qmp,mode=control \
         -chardev {console} -serial chardev:console \
         -device virtio-serial-pci \
         -chardev socket,id=link,fd={LINK_FD} -device virtserialport,chardev=link,name={PORT_NAME}"
    )));
    match start {
        Start::Boot { append } | Start::Interactive { append } => {
            arguments.extend(words(&format!(
                "-kernel /proc/self/fd/{KERNEL_FD} -initrd /proc/self/fd/{INITRD_FD}"
            )));
            arguments.extend(["-append".to_owned(), append.to_owned()]);
            if matches!(start, Start::Interactive { .. }) {
                arguments.extend(words("-mon chardev=console,mode=readline"));
            }
        }
        Start::Restore | Start::RestoreShared => arguments.extend(words("-incoming defer")),
    }
    arguments
}

/// The kernel command line, with the caller's words at its end.
pub(crate) fn command_line(extra: &str) -> String {
    let mut line = format!(
        // Errors and warnings on the console, an oops ends the machine at once, a panic does not wait for anybody.
        "console=ttyS0 loglevel=5 panic=-1 oops=panic \
         sysrq_always_enabled random.trust_cpu=on mitigations=off tsc=reliable no_timer_check \
         cryptomgr.notests=1 {GUEST_MARK}=1"
    );
    if !extra.is_empty() {
        line = format!("{line} {extra}");
    }
    line
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One option a line.
    fn shown(accel: Accel, start: Start<'_>) -> String {
        arguments(accel, 256, start).join(" ").replace(" -", "\n-")
    }

    #[test]
    fn boot() {
        insta::assert_snapshot!(shown(
            Accel::Tcg,
            Start::Boot { append: &command_line("fuse.enable_uring=1") }
        ));
    }

    #[test]
    fn boot_with_the_terminal_as_console() {
        insta::assert_snapshot!(shown(Accel::Kvm, Start::Interactive { append: &command_line("") }));
    }

    #[test]
    fn restore() {
        insta::assert_snapshot!(shown(Accel::Tcg, Start::Restore));
    }
}
