//! Which acceleration works here, found out by booting with it.
//!
//! It does not trust the presence of `/dev/kvm`: there are machines where it exists and every start with it aborts or
//! hangs. What was found is kept until the host boots anew or QEMU changes.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::cache::{Cache, Error};
use crate::progress::Progress;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const PREFIX: &str = "accel-";

/// Who runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// The acceleration to use with the QEMU that `qemu` identifies; `boots` is asked, at most once per host boot, whether a
/// kernel gets as far as its guest program with KVM.
///
/// # Errors
/// The finding cannot be kept in the cache folder.
pub(crate) fn choose(
    cache: &Cache,
    qemu: &str,
    progress: &mut dyn Progress,
    boots: impl FnOnce() -> bool,
) -> Result<Accel, Error> {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    // Without a boot id the finding holds as long as its file; the probe would else run each time.
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    let name = format!("{PREFIX}{}", &crate::machine::digest([boot_id.as_bytes(), qemu.as_bytes()])[..16]);
    let path = cache.root().join(&name);
    match fs::read_to_string(&path).as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        _ => {}
    }
    let (accel, word) = if boots() { (Accel::Kvm, "kvm") } else { (Accel::Tcg, "tcg") };
    if accel == Accel::Tcg {
        progress.say(
            "/dev/kvm is there, but no kernel starts with it: using QEMU's translator (TCG), which is slower",
        );
    }
    forget_older(cache.root());
    let fail = |source| Error::io(&path, source);
    let mut file = tempfile::NamedTempFile::new_in(cache.root()).map_err(fail)?;
    file.write_all(word.as_bytes()).map_err(fail)?;
    file.persist(&path).map_err(|error| fail(error.error))?;
    Ok(accel)
}

/// Findings of earlier boots of the host. One that cannot be removed does no harm.
fn forget_older(root: &Path) {
    for item in fs::read_dir(root).into_iter().flatten().flatten() {
        if item.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = fs::remove_file(item.path());
        }
    }
}
