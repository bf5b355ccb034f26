//! From a recipe to a kernel, with a source whose `make` pretends: as much of a kernel's build as is called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu::kernel::build::{Recipe, Source, flavour, plain};
use qemu::kernel::{self, Boot, Error, Kernel, KernelSpec};
use qemu::progress::Progress;

use super::Desk;

/// Says what it does as the kernel's does, fails as it does, and knows no watch queue.
const MAKEFILE: &str = "\
allnoconfig:
\t@sed -n 's/^CONFIG_WATCH_QUEUE=y$$/# CONFIG_WATCH_QUEUE is not set/; p' $(KCONFIG_ALLCONFIG) > $(O)/.config
\t@echo configured >> $(O)/configured
vmlinux:
\t@echo '  CC      fs/a.o'
\t@! grep -n BROKEN fs/a.c || { echo 'fs/a.c:1:1: error: BROKEN undeclared' >&2; exit 1; }
\t@echo '  LD      vmlinux'
\t@gcc -nostdlib -static -Wl,-e,0 -Wl,--build-id=none -o $(O)/vmlinux kernel.S
\t@cat fs/a.c >> $(O)/built
";

/// A banner, and the note with the PVH entry.
const KERNEL: &str = "\
.section .note.Xen, \"a\", @note
.long 4, 8, 18
.asciz \"Xen\"
.quad 0x1000000
.section .rodata
.asciz \"Linux version 6.99.1-test (someone@example) #1 SMP\"
.text
ret
";

const PATCH: &str = "Words.\n\n--- a/fs/a.c\n+++ b/fs/a.c\n@@ -1 +1 @@\n-int a;\n+int b;\n";

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    steps: Vec<(u64, Option<u64>, String)>,
}

impl Progress for Said {
    fn say(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }

    fn step(&mut self, done: u64, all: Option<u64>, what: &str) {
        self.steps.push((done, all, what.to_owned()));
    }
}

struct Site {
    desk: Desk,
    tree: PathBuf,
}

impl Site {
    fn new() -> Site {
        let desk = Desk::new();
        for (name, bytes) in [
            ("Kbuild", &b""[..]),
            ("Makefile", MAKEFILE.as_bytes()),
            ("fs/a.c", b"int a;\n"),
            ("kernel.S", KERNEL.as_bytes()),
        ] {
            desk.file(&format!("linux/{name}"), bytes);
        }
        let tree = desk.folder.path().join("linux");
        for words in [&["init", "-q"][..], &["add", "."]] {
            assert!(Command::new("git").arg("-C").arg(&tree).args(words).status().expect("git").success());
        }
        Site { desk, tree }
    }

    fn recipe(&self) -> Recipe {
        Recipe::new(Source::Path(self.tree.clone()), plain())
    }

    fn patched(&self, name: &str, text: &str) -> Recipe {
        Recipe { patches: vec![self.desk.file(name, text.as_bytes())], ..self.recipe() }
    }

    fn build(&self, recipe: Recipe) -> (Result<Kernel, Error>, Said) {
        let mut said = Said::default();
        let built = kernel::resolve(&KernelSpec::Built(Box::new(recipe)), &self.desk.cache, &mut said);
        (built, said)
    }

    /// What the folder of objects remembers.
    fn objects(&self, name: &str) -> String {
        let trees = fs::read_dir(self.desk.cache.root()).expect("a cache").flatten();
        let tree = trees.map(|item| item.path()).find(|path| path.to_string_lossy().contains("/tree-"));
        fs::read_to_string(tree.expect("a tree").join("out/small").join(name)).unwrap_or_default()
    }
}

#[test]
fn a_kernel_is_built_once_and_a_patch_only_adds() {
    let site = Site::new();
    let (kernel, said) = site.build(site.recipe());
    let kernel = kernel.expect("built");
    assert_eq!((kernel.name.as_str(), kernel.boot), ("small-linux", Boot::Pvh));
    assert_eq!(said.steps.last(), Some(&(2, None, "vmlinux".to_owned())));
    assert!(kernel.image.is_file());

    let (again, said) = site.build(site.recipe());
    assert_eq!((again.expect("kept").digest, said.lines.len()), (kernel.digest, 0));

    let (patched, said) = site.build(site.patched("good.patch", PATCH));
    assert_eq!(patched.expect("built").name, "small-linux+patch");
    assert_eq!(said.steps.last(), Some(&(2, Some(2), "vmlinux".to_owned())), "how long it is, is known now");
    assert_eq!(site.objects("built"), "int a;\nint b;\n");
    assert_eq!(site.objects("configured"), "configured\n", "once");
    assert_eq!(
        fs::read_to_string(site.tree.join("fs/a.c")).expect("read"),
        "int a;\n",
        "the person's own file"
    );
}

#[test]
fn a_build_that_fails_shows_the_error_and_the_next_one_works() {
    let site = Site::new();
    let (broken, _) = site.build(site.patched("broken.patch", &PATCH.replace("+int b;", "+int BROKEN;")));
    let error = broken.expect_err("refused").to_string();
    assert!(
        error.contains("small-linux+patch does not build") && error.contains("fs/a.c:1:1: error: BROKEN"),
        "{error}"
    );
    site.build(site.recipe()).0.expect("built");
    assert_eq!(site.objects("built"), "int a;\n");
}

#[test]
fn a_patch_that_does_not_apply_shows_its_hunk() {
    let site = Site::new();
    let (refused, _) = site.build(site.patched("stale.patch", &PATCH.replace("-int a;", "-int z;")));
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("stale.patch does not apply") && error.contains("-int z;"), "{error}");
    let (refused, _) = site.build(site.patched("words.patch", "Only words.\n"));
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("words.patch is no patch: give unified differences"), "{error}");
    let outside = PATCH.replace("fs/a.c", "../../a.c");
    let (refused, _) = site.build(site.patched("outside.patch", &outside));
    assert!(refused.expect_err("refused").to_string().contains("outside of the source"));
}

#[test]
fn options_that_a_source_leaves_out_are_named() {
    let site = Site::new();
    let (built, said) = site.build(site.recipe());
    built.expect("built");
    let line = "this source leaves out CONFIG_WATCH_QUEUE";
    assert!(said.lines.iter().any(|said| said == line), "{:?}", said.lines);
}

#[test]
fn a_tarball_is_a_source() {
    let site = Site::new();
    let tarball = site.desk.folder.path().join("linux.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(&tarball).arg("-C").arg(site.desk.folder.path()).arg("linux");
    assert!(tar.status().expect("tar").success());
    let recipe = Recipe::new(Source::Path(tarball.clone()), flavour("small").expect("a flavour"));
    let (built, _) = site.build(recipe);
    assert_eq!(built.expect("built").name, "small-linux.tar.gz");
    assert!(Path::new(&tarball).is_file());
}
