//! From what a person names to a kernel at hand. What needs the network is marked as ignored, with
//! that reason: `cargo test -p qemu --test kernels -- --ignored --nocapture` runs it.

mod builds;
mod fixtures;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::mount::{MsFlags, mount, umount};
use qemu::cache::Cache;
use qemu::kernel::{self, Boot, Error, Kernel, KernelSpec};
use qemu::progress::{Progress, Quiet};
use rstest::rstest;
use tempfile::TempDir;

use fixtures::{Pvh, RELEASE};

/// Keeps what is said, and shows it beside the test's own output.
#[derive(Default)]
struct Said(String);

impl Progress for Said {
    fn say(&mut self, line: &str) {
        eprintln!("  {line}");
        self.0 += line;
    }
}

/// A folder with a cache in it and room for files.
struct Desk {
    folder: TempDir,
    cache: Cache,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp");
        let cache = Cache::at(folder.path().join("cache")).expect("cache");
        Self { folder, cache }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("below the desk")).expect("made");
        fs::write(&path, content).expect("written");
        path
    }

    fn resolve(&self, path: &Path) -> Result<Kernel, Error> {
        kernel::resolve(&KernelSpec::Path(path.to_owned()), &self.cache, &mut Quiet)
    }

    /// The error's text, with the folder's name taken out.
    fn refused(&self, path: &Path) -> String {
        let text = self.resolve(path).expect_err("refused").to_string();
        text.replace(self.folder.path().to_str().expect("utf-8"), "DESK")
    }

    /// What is in the cache folder beside its locks.
    fn entries(&self) -> Vec<String> {
        let items = fs::read_dir(self.cache.root()).expect("readable").flatten();
        items
            .map(|item| item.file_name().into_string().expect("utf-8"))
            .filter(|name| name != "locks")
            .collect()
    }
}

#[rstest]
#[case::gzip(fixtures::gzip)]
#[case::xz(fixtures::xz)]
#[case::zstd(fixtures::zstd)]
#[case::lz4(fixtures::lz4_legacy)]
fn a_bzimage_is_booted_as_the_kernel_inside_it(#[case] compress: fn(&[u8]) -> Vec<u8>) {
    let desk = Desk::new();
    let plain = fixtures::vmlinux(Pvh::Yes);
    let path = desk.file("bzImage", &fixtures::bzimage(&compress(&plain), plain.len()));
    let kernel = desk.resolve(&path).expect("a kernel");
    assert_eq!((kernel.boot, kernel.release.as_str(), kernel.modules.as_ref()), (Boot::Pvh, RELEASE, None));
    assert_eq!(fs::read(&kernel.image).expect("image"), plain);
    fs::write(kernel.image.with_file_name("image"), b"touched").expect("written");
    assert_eq!(desk.resolve(&path).expect("found again"), kernel);
    assert_eq!(fs::read(&kernel.image).expect("image"), b"touched", "the second time reads the cache");
}

#[rstest]
#[case::no_pvh_entry(fixtures::gzip_bzimage(Pvh::No), "built without CONFIG_PVH")]
#[case::unknown_compression(fixtures::bzimage(b"BZh9 and so on", 100), "compression is not known")]
#[case::truncated_payload(fixtures::bzimage(&fixtures::gzip(&[7; 9000])[..30], 9000), "corrupt deflate stream")]
#[case::short_payload(fixtures::bzimage(&fixtures::gzip(&[7; 90]), 9000), "ends after 90 of 9000 bytes")]
#[case::payload_beyond_the_file({ let mut image = fixtures::bzimage(b"", 0); image[0x24f] = 0x7f; image }, "describes no payload")]
#[case::boundless_payload(fixtures::bzimage(&fixtures::gzip(b"x"), u32::MAX as usize), "no sensible size")]
#[case::something_else(fixtures::bzimage(&fixtures::gzip(b"plain text"), 10), "no ELF kernel")]
fn a_bzimage_that_cannot_be_unpacked_unpacks_itself(#[case] image: Vec<u8>, #[case] reason: &str) {
    let desk = Desk::new();
    let spec = KernelSpec::Path(desk.file("bzImage", &image));
    let mut said = Said::default();
    let kernel = kernel::resolve(&spec, &desk.cache, &mut said).expect("a kernel");
    assert_eq!(kernel.boot, Boot::Bzimage);
    assert_eq!(fs::read(&kernel.image).expect("image"), image);
    assert!(said.0.contains(reason), "{}", said.0);
}

#[test]
fn a_vmlinux_is_booted_where_it_lies() {
    let desk = Desk::new();
    let path = desk.file("vmlinux", &fixtures::vmlinux(Pvh::Yes));
    let kernel = desk.resolve(&path).expect("a kernel");
    assert_eq!((kernel.boot, kernel.release.as_str(), &kernel.image), (Boot::Pvh, RELEASE, &path));
    assert_eq!(desk.entries(), [""; 0]);
}

#[test]
fn a_build_tree_gives_its_vmlinux_and_its_modules() {
    let desk = Desk::new();
    desk.file("tree/vmlinux", &fixtures::vmlinux(Pvh::Yes));
    desk.file("tree/modules.order", b"fs/fuse/fuse.o\n");
    desk.file("tree/modules.builtin", b"kernel/fs/ext4/ext4.ko\n");
    let fuse = desk.file("tree/fs/fuse/fuse.ko", &fixtures::module(""));
    let tree = desk.folder.path().join("tree");
    let kernel = desk.resolve(&tree).expect("a kernel");
    assert_eq!((kernel.boot, kernel.modules.as_deref()), (Boot::Pvh, Some(&*tree)));
    assert_eq!(kernel::modules_in_order(&kernel, &["ext4", "fuse"]).expect("read"), [fuse]);
}

#[test]
fn a_build_tree_without_pvh_gives_its_bzimage() {
    let desk = Desk::new();
    desk.file("tree/vmlinux", &fixtures::vmlinux(Pvh::No));
    desk.file("tree/arch/x86/boot/bzImage", &fixtures::gzip_bzimage(Pvh::No));
    let kernel = desk.resolve(&desk.folder.path().join("tree")).expect("a kernel");
    assert_eq!((kernel.boot, kernel.modules), (Boot::Bzimage, None));
}

#[rstest]
#[case::image_in_boot("boot/vmlinuz-6.99.1", "lib/modules")]
#[case::image_beside_the_modules("usr/lib/modules/6.99.1-test-amd64/vmlinuz", "usr/lib/modules")]
fn a_package_gives_its_image_and_its_modules(#[case] image: &str, #[case] modules: &str) {
    let desk = Desk::new();
    let module = |path: &str| format!("{modules}/{RELEASE}/{path}");
    let package = fixtures::package(
        desk.folder.path(),
        &[
            (image.to_owned(), fixtures::gzip_bzimage(Pvh::Yes)),
            (module("kernel/fs/fuse/fuse.ko.xz"), fixtures::xz(&fixtures::module(""))),
            (module("modules.builtin"), b"kernel/fs/ext4/ext4.ko\n".to_vec()),
            ("usr/share/doc/readme".to_owned(), b"not kept".to_vec()),
        ],
    );
    let kernel = desk.resolve(&package).expect("a kernel");
    assert_eq!((kernel.boot, kernel.release.as_str()), (Boot::Pvh, RELEASE));
    let modules = kernel.modules.as_deref().expect("modules");
    assert!(modules.ends_with(format!("lib/modules/{RELEASE}")), "{}", modules.display());
    let mut kept: Vec<_> = fs::read_dir(kernel.image.parent().expect("entry"))
        .expect("readable")
        .flatten()
        .map(|item| item.file_name())
        .collect();
    kept.sort();
    assert_eq!(kept, ["image", "kernel.json", "lib"]);
    assert!(!modules.join("vmlinuz").exists(), "the image is kept once");
}

#[test]
fn a_package_cannot_lead_out_of_itself() {
    let desk = Desk::new();
    let outside = desk.file("outside/lib/modules/kept", b"kept");
    let root = desk.folder.path().join("root");
    fs::create_dir(&root).expect("made");
    std::os::unix::fs::symlink(desk.folder.path().join("outside"), root.join("usr")).expect("linked");
    let image = ("boot/vmlinuz-6.99.1".to_owned(), fixtures::gzip_bzimage(Pvh::Yes));
    let package = fixtures::package(desk.folder.path(), &[image]);
    assert_eq!(desk.resolve(&package).expect("a kernel").modules, None);
    assert!(outside.exists(), "what lies outside of the package is not moved");
}

#[test]
fn refusals_of_paths_say_what_to_do() {
    let desk = Desk::new();
    let folder = desk.folder.path();
    let mut other_machine = fixtures::vmlinux(Pvh::Yes);
    other_machine[18] = 183;
    let empty = tempfile::tempdir_in(folder).expect("temp");
    let package = fixtures::package(empty.path(), &[("usr/share/doc/readme".to_owned(), b"text".to_vec())]);
    let bytes = fs::read(&package).expect("read");
    fs::rename(&package, folder.join("empty.deb")).expect("moved");
    let mut nameless = fixtures::gzip_bzimage(Pvh::Yes);
    nameless[0x300] = b'/';
    fs::create_dir(folder.join("tree")).expect("made");
    let _socket = UnixListener::bind(folder.join("socket")).expect("bound");
    let paths = [
        folder.join("nowhere"),
        desk.file("text", b"text"),
        desk.file("nothing", b""),
        folder.join("socket"),
        desk.file("arm64/vmlinux", &other_machine),
        desk.file("program", &fixtures::vmlinux(Pvh::Yes)[..200]),
        desk.file("no-pvh/vmlinux", &fixtures::vmlinux(Pvh::No)),
        desk.file("nameless", &nameless),
        folder.join("tree"),
        folder.join("empty.deb"),
    ];
    insta::assert_snapshot!(paths.map(|path| desk.refused(&path)).join("\n"), @"
        there is nothing at DESK/nowhere: check the spelling, or pick a name from `fuseproof kernels list`
        DESK/text is not a kernel: give a bzImage, an x86-64 vmlinux, a kernel's .deb package, or a build tree
        DESK/nothing is not a kernel: give a bzImage, an x86-64 vmlinux, a kernel's .deb package, or a build tree
        DESK/socket is not a kernel: give a bzImage, an x86-64 vmlinux, a kernel's .deb package, or a build tree
        DESK/arm64/vmlinux is not a kernel: give a bzImage, an x86-64 vmlinux, a kernel's .deb package, or a build tree
        DESK/program is not a kernel: give a bzImage, an x86-64 vmlinux, a kernel's .deb package, or a build tree
        DESK/no-pvh/vmlinux has no PVH entry: build it with CONFIG_PVH=y, or give its bzImage
        DESK/nameless is not a kernel: give a bzImage, an x86-64 vmlinux, a kernel's .deb package, or a build tree
        DESK/tree holds no built kernel (neither vmlinux nor arch/x86/boot/bzImage): run `make` there first
        the package DESK/empty.deb holds no kernel image: give the linux-image package, or from Linux 6.19 on the linux-binary package
        ");
    let corrupt = desk.refused(&desk.file("corrupt.deb", &bytes[..bytes.len() - 40]));
    assert!(corrupt.starts_with("the package DESK/corrupt.deb is corrupt (dpkg-deb"), "{corrupt}");
    assert!(corrupt.ends_with("): fetch it again"), "{corrupt}");
    assert_eq!(desk.entries(), [""; 0], "a refusal leaves nothing in the cache");
}

#[test]
fn names_paths_and_host_are_told_apart() {
    let parse = |text: &str| text.parse::<KernelSpec>();
    assert_eq!(parse("host").expect("host"), KernelSpec::Host);
    assert_eq!(parse("6.12").expect("row"), KernelSpec::Catalogue("6.12".into()));
    assert_eq!(parse("./6.12").expect("path"), KernelSpec::Path("./6.12".into()));
    assert_eq!(parse("Cargo.toml").expect("an existing file"), KernelSpec::Path("Cargo.toml".into()));
    assert!(matches!(parse("linux"), Err(Error::UnknownName { .. })));
    let desk = Desk::new();
    let error = kernel::resolve(&KernelSpec::Host, &desk.cache, &mut Quiet).expect_err("not booted");
    insta::assert_snapshot!(error, @"the kernel called host is already running and is not booted: name one of the catalogue, or a path");
}

/// A kernel whose modules lie at `root`.
fn kernel_with_modules(root: &Path) -> Kernel {
    Kernel {
        name: "test".into(),
        release: RELEASE.into(),
        image: root.join("vmlinux"),
        boot: Boot::Pvh,
        modules: Some(root.to_owned()),
        digest: String::new(),
    }
}

#[test]
fn modules_are_listed_after_what_they_depend_on() {
    let desk = Desk::new();
    let fixture = |name: &str, bytes: Vec<u8>| desk.file(&format!("modules/{name}"), &bytes);
    let ring = fixture("kernel/virtio_ring.ko.gz", fixtures::gzip(&fixtures::module("")));
    let pci = fixture("kernel/virtio-pci.ko.zst", fixtures::zstd(&fixtures::module("virtio_ring,virtio")));
    let fuse = fixture("kernel/fs/fuse.ko.xz", fixtures::xz(&fixtures::module("")));
    let cuse = fixture("kernel/fs/cuse.ko", fixtures::module("fuse"));
    // Depending on each other is not possible; a hostile tree must not hang us over it.
    let tick = fixture("kernel/tick.ko", fixtures::module("tock"));
    let tock = fixture("kernel/tock.ko", fixtures::module("tick"));
    fixture("modules.builtin", b"kernel/drivers/virtio.ko\nkernel/fs/ext4/ext4.ko\n".to_vec());
    let kernel = kernel_with_modules(&desk.folder.path().join("modules"));

    let wanted = ["ext4", "cuse", "virtio_pci", "absent-one", "fuse", "tick"];
    let order = kernel::modules_in_order(&kernel, &wanted).expect("read");
    assert_eq!(order, [fuse.clone(), cuse, ring, pci, tock, tick]);
    assert_eq!(kernel::absent_modules(&kernel, &wanted).expect("read"), ["absent_one"]);
    assert_eq!(kernel::module_bytes(&fuse).expect("unpacked"), fixtures::module(""));
}

#[rstest]
#[case::truncated(fixtures::xz(&fixtures::module(""))[..60].to_vec())]
#[case::not_elf(b"text".to_vec())]
fn a_broken_module_is_named(#[case] bytes: Vec<u8>) {
    let desk = Desk::new();
    desk.file("modules/fuse.ko.xz", &bytes);
    let kernel = kernel_with_modules(&desk.folder.path().join("modules"));
    let error = kernel::modules_in_order(&kernel, &["fuse"]).expect_err("refused").to_string();
    assert!(error.contains("fuse.ko.xz") && error.contains("again"), "{error}");
}

/// A small file system of its own, unmounted on drop.
struct Tmpfs(TempDir);

impl Tmpfs {
    /// `None`, said aloud, when this user may not mount.
    fn mount(flags: MsFlags, options: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("left out: mounting needs root");
            return None;
        }
        let folder = tempfile::tempdir().expect("temp");
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), flags, Some(options)).expect("mounted");
        Some(Self(folder))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        umount(self.0.path()).expect("unmounted");
    }
}

#[test]
fn a_full_device_is_said_and_nothing_half_written_stays() {
    let Some(tmpfs) = Tmpfs::mount(MsFlags::empty(), "size=256k") else {
        return;
    };
    let cache = Cache::at(tmpfs.0.path().join("cache")).expect("cache");
    let desk = Desk::new();
    let mut large = fixtures::vmlinux(Pvh::Yes);
    large.resize(4 << 20, 0);
    let image = fixtures::bzimage(&fixtures::gzip(&large), large.len());
    let padding = ("usr/share/large".to_owned(), large);
    let package =
        fixtures::package(desk.folder.path(), &[("boot/vmlinuz-6".to_owned(), image.clone()), padding]);
    for path in [desk.file("bzImage", &image), package] {
        let error =
            kernel::resolve(&KernelSpec::Path(path), &cache, &mut Quiet).expect_err("full").to_string();
        assert!(
            error.starts_with("no space left on the device for ") && error.contains("FUSEPROOF_CACHE"),
            "{error}"
        );
        let left = fs::read_dir(cache.root()).expect("readable").flatten().map(|item| item.file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["locks"]);
    }
}

#[test]
fn a_cache_folder_that_cannot_be_written_is_said() {
    let Some(tmpfs) = Tmpfs::mount(MsFlags::MS_RDONLY, "size=64k") else {
        return;
    };
    let error = Cache::at(tmpfs.0.path().join("cache")).expect_err("read-only").to_string();
    assert!(error.starts_with("cannot write ") && error.contains("set FUSEPROOF_CACHE"), "{error}");
}

#[test]
#[ignore = "needs the network: fetches every row of the catalogue that is not in the user's cache"]
fn every_row_is_fetched_once_and_found_again() {
    let cache = Cache::open().expect("cache");
    for row in kernel::catalogue() {
        let spec = KernelSpec::Catalogue(row.name.clone());
        let start = Instant::now();
        let first = kernel::resolve(&spec, &cache, &mut Said::default())
            .unwrap_or_else(|error| panic!("{}: {error}", row.name));
        let fetched = start.elapsed();
        let start = Instant::now();
        let second = kernel::resolve(&spec, &cache, &mut Quiet).expect("found");
        let again = start.elapsed();
        let wanted = [
            "virtio_pci",
            "virtio_console",
            "fuse",
            "cuse",
            "virtiofs",
            "overlay",
            "ext4",
            "loop",
            "crc32c_generic",
        ];
        let modules = kernel::modules_in_order(&first, &wanted).expect("modules");
        let modules: Vec<_> = modules.iter().filter_map(|path| path.file_name()).collect();
        eprintln!(
            "{:9} {:28} image {} MB, fetched in {fetched:.1?}, found in {again:.1?}, to load {modules:?}, absent {:?}",
            row.name,
            first.release,
            first.image.metadata().expect("image").len() / 1_000_000,
            kernel::absent_modules(&first, &wanted).expect("modules"),
        );
        assert_eq!(first, second);
        assert_eq!(kernel::is_cached(row, &cache), Some(second));
        assert_eq!(first.boot, Boot::Pvh, "Debian's kernels have a PVH entry");
    }
}
