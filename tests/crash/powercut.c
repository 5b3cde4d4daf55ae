/* What a process does to the files below one folder: counted, written down, cut short or made to fail.
 *
 * Loaded into a process that is about to be killed (`shim.py`). Every system call that changes files is trapped by a
 * seccomp filter and made again from here: an LD_PRELOAD shim that replaces functions of the C library would miss what
 * tantivy does with its meta.json, which it renames by a system call of its own. Within a trapped call, which may have
 * come from anywhere, nothing is used that locks or allocates. One lock makes what is done and what is written down the
 * same order.
 *
 * A record of the journal: the head below, `path_bytes` of the path, `data_bytes` of what was written or of the new
 * name.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>

enum kind { CREATE = 1, WRITE, TRUNCATE, RENAME, UNLINK, MKDIR, LINK, SYNC, MISSED, KILLED };

struct record {
    uint32_t kind, detail;
    uint64_t inode, offset;
    uint32_t path_bytes, data_bytes;
};

long raw(long number, long a, long b, long c, long d, long e, long f);
extern char raw_begin[], raw_end[];

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
__asm__(".text\n.globl raw_begin\n.globl raw\nraw_begin:\nraw:\n"
        "mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\nmov %r9, %r8\n"
        "mov 8(%rsp), %r9\nsyscall\nret\n.globl raw_end\nraw_end:\n");
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
__asm__(".text\n.globl raw_begin\n.globl raw\nraw_begin:\nraw:\n"
        "mov x8, x0\nmov x0, x1\nmov x1, x2\nmov x2, x3\nmov x3, x4\nmov x4, x5\nmov x5, x6\n"
        "svc #0\nret\n.globl raw_end\nraw_end:\n");
#else
#error "no traps for this processor"
#endif

#define INODES 65536 /* as many files as one run may touch */

static char root[4096];
static size_t root_bytes;
static dev_t device;
static int journal = -1, records_writes, records_syncs;
static uint64_t inodes[INODES];
static int lock;

static volatile long operations, kill_at, fail_first, fail_last;
static volatile int kill_part, fail_errno, fail_kinds;

static void take(void) {
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

static void give(void) { __atomic_store_n(&lock, 0, __ATOMIC_RELEASE); }

static int known(uint64_t inode, int add) {
    for (size_t step = 0, at = inode % INODES; step < INODES; step++, at = (at + 1) % INODES) {
        if (inodes[at] == inode) return 1;
        if (inodes[at] == 0) {
            if (add) inodes[at] = inode;
            return 0;
        }
    }
    return 0;
}

static void all(int descriptor, const void *data, size_t bytes) {
    for (const char *at = data; bytes > 0;) {
        long done = raw(SYS_write, descriptor, (long)at, bytes, 0, 0, 0);
        if (done <= 0) return;
        at += done, bytes -= done;
    }
}

static void note(int kind, int detail, uint64_t inode, uint64_t offset, const char *path, const void *data,
                 size_t data_bytes) {
    if (journal < 0) return;
    size_t path_bytes = path ? strlen(path) : 0;
    struct record head = {kind, detail, inode, offset, path_bytes, data_bytes};
    all(journal, &head, sizeof head);
    if (path_bytes) all(journal, path, path_bytes);
    if (data_bytes && data) all(journal, data, data_bytes);
}

static long link_of(const char *prefix, int descriptor, char *path) {
    char name[64];
    size_t at = strlen(prefix);
    memcpy(name, prefix, at + 1);
    if (descriptor >= 0) {
        char digits[16];
        int count = 0;
        do digits[count++] = '0' + descriptor % 10, descriptor /= 10; while (descriptor);
        while (count) name[at++] = digits[--count];
        name[at] = 0;
    }
    long bytes = raw(SYS_readlinkat, AT_FDCWD, (long)name, (long)path, 4000, 0, 0);
    path[bytes > 0 ? bytes : 0] = 0;
    return bytes;
}

/* The absolute path; whether it lies below the folder that is watched. */
static int resolved(int folder, const char *given, char *path) {
    if (given[0] == '/') {
        strncpy(path, given, 4095);
        path[4095] = 0;
    } else {
        long bytes = folder == AT_FDCWD ? link_of("/proc/self/cwd", -1, path) : link_of("/proc/self/fd/", folder, path);
        if (bytes <= 0 || bytes + strlen(given) + 2 > 4095) return 0;
        path[bytes] = '/';
        strcpy(path + bytes + 1, given);
    }
    return strncmp(path, root, root_bytes) == 0 && (path[root_bytes] == '/' || path[root_bytes] == 0);
}

static int watched(int descriptor, struct stat *found) {
    if (raw(SYS_fstat, descriptor, (long)found, 0, 0, 0, 0)) return 0;
    return found->st_dev == device && (S_ISDIR(found->st_mode) || (S_ISREG(found->st_mode) && known(found->st_ino, 0)));
}

static void killed(int kind, const char *path, int descriptor) {
    char own[4096];
    if (!path && link_of("/proc/self/fd/", descriptor, own) > 0) path = own;
    note(KILLED, kind, 0, 0, path, 0, 0);
    raw(SYS_kill, raw(SYS_getpid, 0, 0, 0, 0, 0, 0), SIGKILL, 0, 0, 0, 0);
    for (;;) raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

/* One more operation: 0 to go on, an error to fail with, and for a write 1 to write a half of it. */
static long counted(int kind, const char *path, int descriptor) {
    long number = ++operations;
    if (number == kill_at && kill_part == 0) killed(kind, path, descriptor);
    if (number >= fail_first && number <= fail_last && (fail_kinds >> kind & 1)) return -fail_errno;
    return number == kill_at && kill_part == 2 && kind == WRITE;
}

static void after(int kind, const char *path, int descriptor) {
    if (operations == kill_at) killed(kind, path, descriptor);
}

static long opened(int folder, const char *given, int flags, int mode) {
    char path[4096];
    struct stat found;
    int writes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
    if (!writes || (flags & O_TMPFILE) == O_TMPFILE || !resolved(folder, given, path))
        return raw(SYS_openat, folder, (long)given, flags, mode, 0, 0);
    take();
    int there = raw(SYS_newfstatat, folder, (long)given, (long)&found, 0, 0, 0) == 0;
    int kind = !there && flags & O_CREAT ? CREATE : there && flags & O_TRUNC && found.st_size > 0 ? TRUNCATE : 0;
    long failed = kind ? counted(kind, path, -1) : 0;
    long got = failed < 0 ? failed : raw(SYS_openat, folder, (long)given, flags, mode, 0, 0);
    if (got >= 0 && raw(SYS_fstat, got, (long)&found, 0, 0, 0, 0) == 0 && S_ISREG(found.st_mode)) {
        known(found.st_ino, 1);
        if (kind == CREATE) note(CREATE, 0, found.st_ino, 0, path, 0, 0);
        if (kind == TRUNCATE) note(TRUNCATE, 0, found.st_ino, 0, 0, 0, 0);
    }
    if (kind) after(kind, path, -1);
    give();
    return got;
}

static long written(long number, long *a) {
    struct stat found;
    int descriptor = a[0];
    if (!watched(descriptor, &found)) return raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    take();
    int placed = number == SYS_pwrite64 || number == SYS_pwritev || number == SYS_pwritev2;
    raw(SYS_fstat, descriptor, (long)&found, 0, 0, 0, 0);
    uint64_t offset = placed ? (uint64_t)a[3] : 0;
    if (!placed || (number == SYS_pwritev2 && a[3] == -1)) {
        int appends = raw(SYS_fcntl, descriptor, F_GETFL, 0, 0, 0, 0) & O_APPEND;
        offset = appends ? (uint64_t)found.st_size : (uint64_t)raw(SYS_lseek, descriptor, 0, SEEK_CUR, 0, 0, 0);
    }
    long half = counted(WRITE, 0, descriptor), got = half;
    int plain = number == SYS_write || number == SYS_pwrite64;
    if (half >= 0) got = raw(number, a[0], a[1], half && plain ? (a[2] + 1) / 2 : a[2], a[3], a[4], a[5]);
    if (got > 0 && records_writes) {
        if (plain) {
            note(WRITE, 0, found.st_ino, offset, 0, (void *)a[1], got);
        } else {
            const struct iovec *parts = (void *)a[1];
            for (long left = got, part = 0; left > 0 && part < a[2]; part++) {
                size_t bytes = parts[part].iov_len < (size_t)left ? parts[part].iov_len : (size_t)left;
                note(WRITE, 0, found.st_ino, offset, 0, parts[part].iov_base, bytes);
                offset += bytes, left -= bytes;
            }
        }
    }
    after(WRITE, 0, descriptor);
    give();
    return got;
}

static long resized(int descriptor, uint64_t size, int grows, long number, long *a) {
    struct stat found;
    if (!watched(descriptor, &found)) return raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    take();
    raw(SYS_fstat, descriptor, (long)&found, 0, 0, 0, 0);
    long got = counted(TRUNCATE, 0, descriptor);
    if (got >= 0) got = raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (got == 0 && (!grows || (uint64_t)found.st_size < size)) note(TRUNCATE, 0, found.st_ino, size, 0, 0, 0);
    after(TRUNCATE, 0, descriptor);
    give();
    return got;
}

static long synced(long number, int descriptor) {
    struct stat found;
    if (!watched(descriptor, &found)) return raw(number, descriptor, 0, 0, 0, 0, 0);
    take();
    long got = counted(SYNC, 0, descriptor);
    if (got >= 0) got = 0; /* a kill loses nothing that the kernel has, and a power cut is what the journal makes of it */
    if (got == 0 && records_syncs) note(SYNC, 0, found.st_ino, 0, 0, 0, 0);
    after(SYNC, 0, descriptor);
    give();
    return got;
}

/* One or two names. */
static long renamed(int kind, int folder, const char *given, int other_folder, const char *other, long number,
                    long *a) {
    char path[4096], target[4096];
    struct stat found;
    int inside = resolved(folder, given, path);
    if (other) inside |= resolved(other_folder, other, target);
    if (!inside) return raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    take();
    const char *named = other ? target : path;
    long got = counted(kind, named, -1);
    if (got >= 0) got = raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (got == 0) {
        int there = raw(SYS_newfstatat, AT_FDCWD, (long)named, (long)&found, AT_SYMLINK_NOFOLLOW, 0, 0) == 0;
        note(kind, 0, there ? found.st_ino : 0, 0, path, other ? target : 0, other ? strlen(target) : 0);
    }
    after(kind, named, -1);
    give();
    return got;
}

static long handled(long number, long *a) {
    struct stat found;
    switch (number) {
#ifdef SYS_open
    case SYS_open: return opened(AT_FDCWD, (char *)a[0], a[1], a[2]);
    case SYS_creat: return opened(AT_FDCWD, (char *)a[0], O_CREAT | O_WRONLY | O_TRUNC, a[1]);
    case SYS_rename: return renamed(RENAME, AT_FDCWD, (char *)a[0], AT_FDCWD, (char *)a[1], number, a);
    case SYS_link: return renamed(LINK, AT_FDCWD, (char *)a[0], AT_FDCWD, (char *)a[1], number, a);
    case SYS_unlink:
    case SYS_rmdir: return renamed(UNLINK, AT_FDCWD, (char *)a[0], 0, 0, number, a);
    case SYS_mkdir: return renamed(MKDIR, AT_FDCWD, (char *)a[0], 0, 0, number, a);
#endif
    case SYS_openat: return opened(a[0], (char *)a[1], a[2], a[3]);
#ifdef SYS_renameat
    case SYS_renameat:
#endif
    case SYS_renameat2: return renamed(RENAME, a[0], (char *)a[1], a[2], (char *)a[3], number, a);
    case SYS_linkat: return renamed(LINK, a[0], (char *)a[1], a[2], (char *)a[3], number, a);
    case SYS_unlinkat: return renamed(UNLINK, a[0], (char *)a[1], 0, 0, number, a);
    case SYS_mkdirat: return renamed(MKDIR, a[0], (char *)a[1], 0, 0, number, a);
    case SYS_write:
    case SYS_writev:
    case SYS_pwrite64:
    case SYS_pwritev:
    case SYS_pwritev2: return written(number, a);
    case SYS_ftruncate: return resized(a[0], a[1], 0, number, a);
    case SYS_fallocate:
        if (a[1] == 0) return resized(a[0], a[2] + a[3], 1, number, a);
        break;
    case SYS_fsync:
    case SYS_fdatasync: return synced(number, a[0]);
    case SYS_copy_file_range:
        if (watched(a[2], &found)) note(MISSED, number, found.st_ino, 0, 0, 0, 0);
        break;
    case SYS_sendfile:
        if (watched(a[0], &found)) note(MISSED, number, found.st_ino, 0, 0, 0, 0);
        break;
    }
    return raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void trapped(int signal, siginfo_t *info, void *context) {
    ucontext_t *at = context;
    (void)signal;
#if defined(__x86_64__)
    greg_t *r = at->uc_mcontext.gregs;
    long a[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    r[REG_RAX] = handled(info->si_syscall, a);
#else
    unsigned long long *r = at->uc_mcontext.regs;
    long a[6] = {r[0], r[1], r[2], r[3], r[4], r[5]};
    r[0] = handled(info->si_syscall, a);
#endif
}

static const int numbers[] = {
#ifdef SYS_open
    SYS_open, SYS_creat, SYS_rename, SYS_link, SYS_unlink, SYS_rmdir, SYS_mkdir,
#endif
#ifdef SYS_renameat
    SYS_renameat,
#endif
    SYS_openat, SYS_renameat2, SYS_linkat, SYS_unlinkat, SYS_mkdirat, SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev,
    SYS_pwritev2, SYS_ftruncate, SYS_fallocate, SYS_fsync, SYS_fdatasync, SYS_copy_file_range, SYS_sendfile};
#define COUNT (int)(sizeof numbers / sizeof numbers[0])

/* Watch the folder `path` (absolute, no links in it). The journal is a descriptor; 0, or the number of an error. */
int watch(const char *path, int descriptor, int with_writes, int with_syncs) {
    struct stat found;
    uint64_t first = (uint64_t)raw_begin, last = (uint64_t)raw_end;
    if (first >> 32 != last >> 32) return ERANGE;
    root_bytes = strlen(path);
    memcpy(root, path, root_bytes + 1);
    if (stat(path, &found)) return errno;
    device = found.st_dev;
    journal = descriptor, records_writes = with_writes, records_syncs = with_syncs;
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_RESTART};
    if (sigaction(SIGSYS, &action, 0)) return errno;
    struct sock_filter program[10 + COUNT] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first >> 32, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)first, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)last, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    int at = 7;
    for (int each = 0; each < COUNT; each++)
        program[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[each], COUNT - each, 0);
    program[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    program[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    struct sock_fprog filter = {at, program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) return errno;
    return 0;
}

/* Operations so far. */
long counted_so_far(void) { return operations; }

/* Kill this process with SIGKILL at its operation `number`: 0 before it, 1 behind it, 2 with half of it written. */
void kill_at_operation(long number, int part) { kill_part = part, kill_at = number; }

/* Let operations `first` to `last` fail with `error`, as far as bit `kind` of `kinds` is set for them. */
void fail_operations(long first, long last, int error, int kinds) {
    fail_first = first, fail_errno = error, fail_kinds = kinds, fail_last = last;
}
