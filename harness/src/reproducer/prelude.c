#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every reproducer has all of this and uses what it needs. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-variable"

/* From linux/fuse.h, which may be older than the kernel. */
struct in_header { uint32_t len, opcode; uint64_t unique, nodeid; uint32_t uid, gid, pid; uint16_t extlen, padding; };
struct out_header { uint32_t len; int32_t error; uint64_t unique; };
struct backing_map { int32_t fd; uint32_t flags; uint64_t padding; };
#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)
enum {
	LOOKUP = 1, FORGET = 2, GETATTR = 3, SETATTR = 4, UNLINK = 10, OPEN = 14, READ = 15, WRITE = 16, RELEASE = 18,
	FSYNC = 20, GETXATTR = 22, FLUSH = 25, INIT = 26, OPENDIR = 27, RELEASEDIR = 29, ACCESS = 34, CREATE = 35,
	INTERRUPT = 36, DESTROY = 38, IOCTL = 39, POLL = 40, NOTIFY_REPLY = 41, BATCH_FORGET = 42, STATFS = 17, STATX = 52,
};

/* A field of a request or a reply, by its place behind the header of a reply or from the start of a request. */
struct field { unsigned int at, size; int64_t value; uint64_t mask; };
struct rule { int opcode, once, error, cut, pad, has_data, used, nfields; char path[64]; struct field fields[16]; char data[4096]; int ndata; };
struct seen { int opcode; const char *path; int nfields; struct field fields[8]; };
struct got { uint32_t opcode; char path[64]; unsigned char bytes[160]; };

/* What the daemon and the test both see. */
static struct shared {
	volatile int ready, nrules, ngot;
	volatile uint32_t offered, offered2;
	struct rule rules[64];
	struct got got[512];
} *shared;

static char base[] = "/tmp/fuse-reproducer-XXXXXX";
static int device = -1, looked, tests;
static pid_t daemon_pid;
static unsigned char buffer[1 << 21];

static void finish(int code)
{
	if (daemon_pid > 0) {
		kill(daemon_pid, SIGKILL);
		waitpid(daemon_pid, NULL, 0);
	}
	if (device >= 0)
		close(device);
	umount2(base, MNT_DETACH);
	rmdir(base);
	fflush(stdout);
	_exit(code);
}

static void skip(const char *why)
{
	printf("1..0 # SKIP %s\n", why);
	finish(4);
}

static void check(int good, long got, const char *step)
{
	tests++;
	if (good) {
		printf("ok %d %s\n", tests, step);
		return;
	}
	printf("not ok %d %s\n# got %ld%s%s\n", tests, step, got, got < 0 ? ": " : "", got < 0 ? strerror(-got) : "");
	fflush(stdout);
	finish(1);
}

static void must(long done, const char *what)
{
	if (done < 0) {
		printf("Bail out! %s: %s\n", what, strerror(errno));
		finish(1);
	}
}

static const char *path_in(const char *place, const char *path)
{
	static char paths[2][256];
	static int next;

	next = !next;
	snprintf(paths[next], sizeof(paths[next]), "%s/%s/%s", base, place, path);
	return paths[next];
}

/* The daemon: a loopback over the lower folder, one name for each node, overridden by rules. */
static char nodes[64][64] = { "", "" };
static int nnodes = 2;
static uint64_t next_handle = 1;

static int node_of(const char *path)
{
	for (int i = 1; i < nnodes; i++)
		if (!strcmp(nodes[i], path))
			return i;
	if (nnodes == 64)
		return 0;
	snprintf(nodes[nnodes], 64, "%s", path);
	return nnodes++;
}

static void put_attr(unsigned char *at, const struct stat *s, uint64_t node)
{
	uint64_t wide[] = { node, s->st_size, s->st_blocks, s->st_atime, s->st_mtime, s->st_ctime };
	uint32_t narrow[] = { s->st_atim.tv_nsec, s->st_mtim.tv_nsec, s->st_ctim.tv_nsec, s->st_mode, s->st_nlink,
			      s->st_uid, s->st_gid, s->st_rdev, s->st_blksize, 0 };

	memcpy(at, wide, sizeof(wide));
	memcpy(at + 48, narrow, sizeof(narrow));
}

static int put_entry(unsigned char *out, const char *path)
{
	struct stat s;
	uint64_t valid = 3600, node;

	if (lstat(path_in("lower", path), &s))
		return -errno;
	node = node_of(path);
	memset(out, 0, 128);
	memcpy(out, &node, 8);
	memcpy(out + 16, &valid, 8);
	memcpy(out + 24, &valid, 8);
	put_attr(out + 40, &s, node);
	return 128;
}

static int put_attributes(unsigned char *out, const char *path, uint64_t node)
{
	struct stat s;
	uint64_t valid = 3600;

	if (lstat(path_in("lower", path), &s))
		return -errno;
	memset(out, 0, 104);
	memcpy(out, &valid, 8);
	put_attr(out + 16, &s, node);
	return 104;
}

/* The loopback's own answer: bytes of payload, or an errno below 0. */
static int own(const struct in_header *in, const unsigned char *body, const char *path, unsigned char *out)
{
	const char *lower = path_in("lower", path);
	uint64_t word, offset;
	uint32_t size, valid;
	int fd, done;

	switch (in->opcode) {
	case INIT: {
		uint32_t init[16] = { 7, 46, ((uint32_t *)body)[2] };

		if (((uint32_t *)body)[1] < 46)
			init[1] = ((uint32_t *)body)[1];
		init[5] = 1 << 17; /* max_write */
		init[6] = 1;       /* time_gran */
		memcpy(out, init, 64);
		return 64;
	}
	case LOOKUP:
		return put_entry(out, path);
	case GETATTR:
		return put_attributes(out, path, in->nodeid);
	case SETATTR:
		memcpy(&valid, body, 4);
		memcpy(&word, body + 16, 8);
		if (valid & 1) {
			memcpy(&size, body + 68, 4);
			if (chmod(lower, size & 07777))
				return -errno;
		}
		if ((valid & 8) && truncate(lower, word))
			return -errno;
		return put_attributes(out, path, in->nodeid);
	case CREATE:
		memcpy(&size, body, 4);
		memcpy(&valid, body + 4, 4);
		fd = open(lower, O_CREAT | (size & (O_EXCL | O_TRUNC)) | O_WRONLY, valid & 07777);
		if (fd < 0)
			return -errno;
		close(fd);
		done = put_entry(out, path);
		memset(out + 128, 0, 16);
		memcpy(out + 128, &next_handle, 8);
		next_handle++;
		return done < 0 ? done : 144;
	case OPEN:
	case OPENDIR:
		memset(out, 0, 16);
		memcpy(out, &next_handle, 8);
		next_handle++;
		return 16;
	case READ:
		memcpy(&offset, body + 8, 8);
		memcpy(&size, body + 16, 4);
		fd = open(lower, O_RDONLY);
		done = fd < 0 ? -1 : pread(fd, out, size > 1 << 20 ? 1 << 20 : size, offset);
		done = done < 0 ? -errno : done;
		if (fd >= 0)
			close(fd);
		return done;
	case WRITE:
		memcpy(&offset, body + 8, 8);
		memcpy(&size, body + 16, 4);
		fd = open(lower, O_WRONLY);
		done = fd < 0 ? -1 : pwrite(fd, body + 40, size, offset);
		done = done < 0 ? -errno : done;
		if (fd >= 0)
			close(fd);
		if (done < 0)
			return done;
		memset(out, 0, 8);
		memcpy(out, &done, 4);
		return 8;
	case UNLINK:
		return unlink(lower) ? -errno : 0;
	case FLUSH:
	case RELEASE:
	case RELEASEDIR:
	case FSYNC:
	case ACCESS:
	case DESTROY:
		return 0;
	case GETXATTR:
		return -ENODATA;
	case IOCTL:
		return -ENOTTY;
	default:
		return -ENOSYS;
	}
}

static struct rule *rule_for(uint32_t opcode, const char *path)
{
	for (int i = 0; i < shared->nrules; i++) {
		struct rule *rule = &shared->rules[i];

		if ((int)opcode == rule->opcode && !(rule->once && rule->used) &&
		    (rule->path[0] == '*' || !strcmp(rule->path, path)))
			return rule;
	}
	return NULL;
}

static int is_silent(uint32_t opcode)
{
	return opcode == FORGET || opcode == BATCH_FORGET || opcode == INTERRUPT || opcode == NOTIFY_REPLY;
}

static void serve(void)
{
	static unsigned char in[(1 << 20) + 8192], out[16 + (1 << 20) + 8192];

	for (;;) {
		ssize_t len = read(device, in, sizeof(in));
		struct in_header header;
		struct out_header reply = { 0 };
		char path[64] = "";
		struct rule *rule;
		int done, i;

		if (len < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
			continue;
		if (len < (ssize_t)sizeof(header))
			_exit(0);
		memcpy(&header, in, sizeof(header));
		if (header.nodeid < 64)
			snprintf(path, sizeof(path), "%s", nodes[header.nodeid]);
		if (header.opcode == LOOKUP || header.opcode == UNLINK || header.opcode == CREATE)
			snprintf(path, sizeof(path), "%s", (char *)in + 40 + (header.opcode == CREATE ? 16 : 0));
		if (shared->ngot < 512) {
			struct got *got = &shared->got[shared->ngot];

			got->opcode = header.opcode;
			memcpy(got->path, path, sizeof(path));
			memcpy(got->bytes, in, len < 160 ? len : 160);
		}
		if (header.opcode == INIT) {
			memcpy((void *)&shared->offered, in + 40 + 12, 4);
			memcpy((void *)&shared->offered2, in + 40 + 16, 4);
		}
		rule = rule_for(header.opcode, path);
		if (rule)
			rule->used = 1;
		done = rule && rule->error ? -rule->error : own(&header, in + 40, path, out + 16);
		if (rule && !rule->error) {
			if (done < 0) {
				memset(out + 16, 0, 160);
				done = 0;
			}
			if (rule->has_data) {
				memcpy(out + 16, rule->data, rule->ndata);
				done = rule->ndata;
			}
			for (i = 0; i < rule->nfields; i++) {
				struct field *field = &rule->fields[i];

				if (done < (int)(field->at + field->size)) {
					memset(out + 16 + done, 0, field->at + field->size - done);
					done = field->at + field->size;
				}
				memcpy(out + 16 + field->at, &field->value, field->size);
			}
			done = done < rule->cut ? 0 : done - rule->cut;
			memset(out + 16 + done, 0, rule->pad);
			done += rule->pad;
		}
		reply.unique = header.unique;
		reply.error = done < 0 ? done : 0;
		reply.len = 16 + (done > 0 ? done : 0);
		memcpy(out, &reply, 16);
		/* Whoever waits for the answer may look at once. */
		if (shared->ngot < 512)
			shared->ngot++;
		__sync_synchronize();
		if (!is_silent(header.opcode))
			done = write(device, out, reply.len);
		if (header.opcode == INIT)
			shared->ready = 1;
	}
}

static void add_rule(struct rule rule)
{
	if (shared->nrules == 64)
		skip("too many rules");
	shared->rules[shared->nrules] = rule;
	shared->nrules++;
}

static void stage(void)
{
	char lower[300], mnt[300];

	must(unshare(CLONE_NEWNS), "unshare");
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private mounts");
	must(mkdtemp(base) ? 0 : -1, "a folder below /tmp");
	/* Everything lies on a tmpfs of this mount namespace. */
	must(mount("reproducer", base, "tmpfs", 0, NULL), "tmpfs");
	snprintf(lower, sizeof(lower), "%s/lower", base);
	snprintf(mnt, sizeof(mnt), "%s/mnt", base);
	must(mkdir(lower, 0755), "lower");
	must(mkdir(mnt, 0755), "mnt");
	umask(022);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(shared == MAP_FAILED ? -1 : 0, "mmap");
	alarm(60);
}

static long mount_fuse(int needs_passthrough)
{
	char options[100];

	device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (device < 0)
		skip("/dev/fuse cannot be opened");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
	if (mount("reproducer", path_in("mnt", ""), "fuse", 0, options))
		return -errno;
	daemon_pid = fork();
	must(daemon_pid, "fork");
	if (!daemon_pid)
		serve();
	for (int i = 0; i < 2000 && !shared->ready; i++)
		usleep(1000);
	if (needs_passthrough && !(shared->offered2 & (1 << 5)))
		skip("the kernel does not offer FUSE_PASSTHROUGH");
	return 0;
}

static int is_housekeeping(uint32_t opcode)
{
	static const uint32_t all[] = { LOOKUP, GETATTR, STATX, GETXATTR, ACCESS, STATFS, FORGET, BATCH_FORGET, INTERRUPT,
					INIT, POLL };

	for (unsigned int i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (all[i] == opcode)
			return 1;
	return 0;
}

static int is_same(const struct got *got, const struct seen *seen)
{
	if ((int)got->opcode != seen->opcode || (seen->path && strcmp(seen->path, got->path)))
		return 0;
	for (int i = 0; i < seen->nfields; i++) {
		uint64_t value = 0;

		memcpy(&value, got->bytes + seen->fields[i].at, seen->fields[i].size);
		if ((value & seen->fields[i].mask) != ((uint64_t)seen->fields[i].value & seen->fields[i].mask))
			return 0;
	}
	return 1;
}

/* Whether these came since the last exact look: exactly, among others, or none of them. */
static int has_seen(char how, const struct seen *list, int count)
{
	int at = 0;

	for (int i = looked; i < shared->ngot; i++) {
		const struct got *got = &shared->got[i];
		int named = 0;

		for (int j = 0; j < count; j++)
			named |= (int)got->opcode == list[j].opcode;
		if (how == 'n') {
			if (named)
				return 0;
		} else if (at < count && is_same(got, &list[at])) {
			at++;
		} else if (how == 'e' && (named || !is_housekeeping(got->opcode))) {
			return 0;
		}
	}
	return how == 'n' || at == count;
}

static void saw(char how, const struct seen *list, int count, const char *step)
{
	int good = has_seen(how, list, count);

	/* RELEASE comes after close has returned. */
	for (int i = 0; i < 1000 && !good && how != 'n'; i++) {
		usleep(1000);
		good = has_seen(how, list, count);
	}
	check(good, shared->ngot - looked, step);
	/* Only an exact look takes what it has seen. */
	if (how == 'e')
		looked = shared->ngot;
}

static long backing_open(int fd, uint32_t flags, uint64_t padding)
{
	struct backing_map map = { fd, flags, padding };
	int id = ioctl(device, BACKING_OPEN, &map);

	return id < 0 ? -errno : id;
}

static long backing_close(uint32_t id)
{
	return ioctl(device, BACKING_CLOSE, &id) < 0 ? -errno : 0;
}

static long send_raw(uint64_t unique, int32_t error, uint32_t len, const void *payload, size_t size)
{
	static unsigned char message[16 + 8192];
	struct out_header header = { len, error, unique };
	ssize_t done;

	memcpy(message, &header, 16);
	memcpy(message + 16, payload, size);
	done = write(device, message, 16 + size);
	return done < 0 ? -errno : done;
}

static long make_file(const char *path, const void *data, size_t size)
{
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
	long done = fd < 0 ? -1 : write(fd, data, size);

	must(done, path);
	close(fd);
	return 0;
}

static long content(const char *path)
{
	int fd = open(path, O_RDONLY);
	long done = fd < 0 ? -errno : read(fd, buffer, sizeof(buffer));

	if (fd >= 0)
		close(fd);
	return done;
}

static sigjmp_buf fault;

static void on_fault(int signal)
{
	siglongjmp(fault, signal);
}

/* Touch memory; a signal is below -1000. */
static long touch(void *to, const void *from, size_t size)
{
	int got;

	signal(SIGBUS, on_fault);
	signal(SIGSEGV, on_fault);
	got = sigsetjmp(fault, 1);
	if (!got)
		memcpy(to, from, size);
	signal(SIGBUS, SIG_DFL);
	signal(SIGSEGV, SIG_DFL);
	return got ? -1000 - got : 0;
}

static long loaded(long from, size_t size)
{
	long done = touch(buffer, (void *)from, size);

	return done < 0 ? done : (long)size;
}

static struct stat st;

static int all_used(void)
{
	for (int i = 0; i < shared->nrules; i++)
		if (shared->rules[i].once && !shared->rules[i].used)
			return 0;
	return 1;
}

static int is_text(long done, const char *data, long size)
{
	return done == size && !memcmp(buffer, data, size);
}

static inline long result(long done)
{
	return done < 0 ? -errno : done;
}
