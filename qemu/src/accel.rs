//! Which acceleration works here, found out by booting with it.
//!
//! It does not trust the presence of `/dev/kvm`: there are machines where it exists and every start with it aborts or
//! hangs. What was found is kept until the host boots anew or QEMU changes, but only once a kernel has booted with it: one
//! that boots with neither says nothing about KVM.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Error};
use crate::progress::Progress;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const PREFIX: &str = "accel-";
const KVM: &str = "kvm";
const TCG: &str = "tcg";

/// Who runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// The acceleration to use with the QEMU that `qemu` identifies; `boots` is asked, if nothing was kept, whether a kernel
/// gets as far as its guest program with KVM.
pub(crate) fn choose(
    cache: &Cache,
    qemu: &str,
    progress: &mut dyn Progress,
    boots: impl FnOnce() -> bool,
) -> Accel {
    if !is_offered() {
        return Accel::Tcg;
    }
    match fs::read_to_string(finding(cache, qemu)).as_deref() {
        Ok(KVM) => return Accel::Kvm,
        Ok(TCG) => return Accel::Tcg,
        _ => {}
    }
    if boots() {
        return Accel::Kvm;
    }
    progress
        .say("/dev/kvm is there, but the kernel does not start with it: using QEMU's translator (TCG), which is slower");
    Accel::Tcg
}

/// A kernel has booted with what was chosen.
///
/// # Errors
/// The finding cannot be kept in the cache folder.
pub(crate) fn keep(cache: &Cache, qemu: &str, accel: Accel) -> Result<(), Error> {
    let path = finding(cache, qemu);
    if !is_offered() || path.exists() {
        return Ok(());
    }
    forget_older(cache.root());
    let fail = |source| Error::io(&path, source);
    let mut file = tempfile::NamedTempFile::new_in(cache.root()).map_err(fail)?;
    let word = if accel == Accel::Kvm { KVM } else { TCG };
    file.write_all(word.as_bytes()).map_err(fail)?;
    file.persist(&path).map_err(|error| fail(error.error))?;
    Ok(())
}

fn is_offered() -> bool {
    fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn finding(cache: &Cache, qemu: &str) -> PathBuf {
    // Without a boot id the finding holds as long as its file; the probe would else run each time.
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    let key = crate::digest::of_parts([boot_id.as_bytes(), qemu.as_bytes()]);
    cache.root().join(format!("{PREFIX}{}", &key[..16]))
}

/// Findings of earlier boots of the host. One that cannot be removed does no harm.
fn forget_older(root: &Path) {
    for item in fs::read_dir(root).into_iter().flatten().flatten() {
        if item.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = fs::remove_file(item.path());
        }
    }
}
