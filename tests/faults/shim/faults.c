/* What a disk may do to a program, loaded before libc (LD_PRELOAD): each call that changes files below a folder is
 * counted, and at the chosen one something happens.
 *
 *     faults_arm(folder, at, action, sticky, record)   counts from 1; from now on, in this process and its forks
 *     faults_disarm()                                  the number of calls since then
 *
 * Actions at call `at` (with `sticky` also at every later one):
 *     kill               SIGKILL before the call
 *     torn               half of what a write was given, then SIGKILL; before any other call
 *     enospc eio efbig   the call fails, and changes nothing; what takes away fails by eio alone
 * Actions at every call, `at` being of no matter:
 *     list               a line "number operation path" in the file `record`
 *     copy               the folder as it is before the call, as `record`/number: what a kill there leaves
 *     halves             the folder as it is in the middle of each write, likewise: what a torn write leaves
 *     cut                at each flush (fsync), what is safe from then on: `record`/number.event, .tree and .data
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum action { NONE, KILL, TORN, FAIL, LIST, COPY, HALVES, CUT };

static struct {
    int on, sticky, error;
    enum action action;
    long at, count, flushes;
    char folder[PATH_MAX], record[PATH_MAX];
} plan;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int ours; /* within: calls are not counted */

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, #name)

static void watch_raw_calls(void);

int faults_arm(const char *folder, long at, const char *action, int sticky, const char *record)
{
    static const struct { const char *name; enum action action; int error; } known[] = {
        {"kill", KILL, 0}, {"torn", TORN, 0}, {"list", LIST, 0}, {"copy", COPY, 0}, {"halves", HALVES, 0},
        {"cut", CUT, 0},
        {"enospc", FAIL, ENOSPC}, {"eio", FAIL, EIO}, {"efbig", FAIL, EFBIG},
    };
    memset(&plan, 0, sizeof plan);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(action, known[i].name)) {
            plan.action = known[i].action;
            plan.error = known[i].error;
        }
    if (!plan.action || !realpath(folder, plan.folder)) return -1;
    snprintf(plan.record, sizeof plan.record, "%s", record ? record : "");
    plan.at = at;
    plan.sticky = sticky;
    watch_raw_calls();
    plan.on = 1;
    return 0;
}

long faults_disarm(void)
{
    plan.on = 0;
    return plan.count;
}

/* ------------------------------------------------------------------------------------------ what a call is about */

static int below(const char *path)
{
    size_t length = strlen(plan.folder);
    return !strncmp(path, plan.folder, length) && (path[length] == '/' || !path[length]);
}

static int path_of(int handle, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

/* Whether a call on this name, as seen from a folder's handle, is counted; `path` gets its whole path. */
static int counted_name(int folder, const char *name, char *path)
{
    if (!plan.on || ours || !name) return 0;
    if (name[0] == '/')
        snprintf(path, PATH_MAX, "%s", name);
    else {
        char base[PATH_MAX];
        if (folder == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of(folder, base)) return 0;
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return below(path);
}

static int counted_handle(int handle, char *path)
{
    return plan.on && !ours && path_of(handle, path) && below(path);
}

/* ---------------------------------------------------------------------------------------------------- what happens */

static void copy_folder(long number)
{
    char target[PATH_MAX + 32], *arguments[] = {"cp", "-a", plan.folder, target, NULL}, *plain[] = {NULL};
    pid_t child;
    snprintf(target, sizeof target, "%s/%06ld", plan.record, number);
    if (!posix_spawn(&child, "/bin/cp", NULL, NULL, arguments, plain)) waitpid(child, NULL, 0);
}

static void copy_half(void)
{
    pthread_mutex_lock(&lock);
    ours = 1;
    copy_folder(plan.count);
    ours = 0;
    pthread_mutex_unlock(&lock);
}

static void list_call(long number, const char *operation, const char *path)
{
    int file = open(plan.record, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dprintf(file, "%ld %s %s\n", number, operation, path);
    close(file);
}

/* What the call is to do: 0 as ever, -1 half of it and then die, else the error to fail with. */
static int outcome(const char *operation, const char *path)
{
    int result = 0;
    pthread_mutex_lock(&lock);
    long number = ++plan.count;
    ours = 1;
    if (plan.action == LIST) list_call(number, operation, path);
    if (plan.action == COPY) copy_folder(number);
    if (number == plan.at || (plan.sticky && number > plan.at)) {
        if (plan.action == KILL) kill(getpid(), SIGKILL);
        if (plan.action == TORN) result = -1;
        int room = plan.error == EIO || (strncmp(operation, "unlink", 6) && strcmp(operation, "rmdir"));
        if (plan.action == FAIL && room) result = plan.error;
    }
    ours = 0;
    pthread_mutex_unlock(&lock);
    return result;
}

static void die(void) { kill(getpid(), SIGKILL); }

/* For calls that have no half: dies for -1; whether it fails, `errno` being set. */
static int fails(const char *operation, const char *path)
{
    int result = outcome(operation, path);
    if (result < 0) die();
    if (result > 0) errno = result;
    return result > 0;
}

/* ---------------------------------------------------------------------------------------- what a flush makes safe */

static FILE *tree;

/* An inode's number with the time of its birth, as a number alone is given again to a later file. */
static void print_inode(FILE *file, int kind, int folder, const char *path, int flags)
{
    struct statx found = {0};
    statx(folder, path, flags, STATX_INO | STATX_BTIME, &found);
    fprintf(file, "%c %llu.%lld.%u ", kind, (unsigned long long)found.stx_ino, (long long)found.stx_btime.tv_sec,
            found.stx_btime.tv_nsec);
}

static int tree_line(const char *path, const struct stat *found, int kind, struct FTW *place)
{
    (void)found, (void)place;
    print_inode(tree, kind == FTW_D ? 'd' : kind == FTW_SL ? 'l' : 'f', AT_FDCWD, path, AT_SYMLINK_NOFOLLOW);
    fprintf(tree, "%s\n", path + strlen(plan.folder));
    return 0;
}

static void note_flush(int handle, const char *path)
{
    struct stat found;
    char name[PATH_MAX + 32];
    pthread_mutex_lock(&lock);
    ours = 1;
    long number = ++plan.flushes;
    if (!fstat(handle, &found)) {
        snprintf(name, sizeof name, "%s/%06ld.tree", plan.record, number);
        tree = fopen(name, "w");
        nftw(plan.folder, tree_line, 16, FTW_PHYS);
        fclose(tree);
        if (S_ISREG(found.st_mode)) {
            char again[64];
            snprintf(again, sizeof again, "/proc/self/fd/%d", handle);
            snprintf(name, sizeof name, "%s/%06ld.data", plan.record, number);
            int from = open(again, O_RDONLY), to = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
            char part[65536];
            for (ssize_t length; (length = read(from, part, sizeof part)) > 0;)
                if (write(to, part, length) != length) abort();
            close(from);
            close(to);
        }
        snprintf(name, sizeof name, "%s/%06ld.event", plan.record, number);
        FILE *event = fopen(name, "w");
        print_inode(event, S_ISREG(found.st_mode) ? 'f' : 'd', handle, "", AT_EMPTY_PATH);
        fprintf(event, "%s\n", path);
        fclose(event);
    }
    ours = 0;
    pthread_mutex_unlock(&lock);
}

/* ------------------------------------------------------------------------------------------------------- the calls */

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)); }

#define MODE_OF(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *file, int flags, ...) \
    { \
        REAL(int, name, const char *, int, ...); \
        MODE_OF(flags) \
        char path[PATH_MAX]; \
        if (writes(flags) && counted_name(AT_FDCWD, file, path) && fails("open", path)) return -1; \
        return real(file, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *file, int flags, ...) \
    { \
        REAL(int, name, int, const char *, int, ...); \
        MODE_OF(flags) \
        char path[PATH_MAX]; \
        if (writes(flags) && counted_name(folder, file, path) && fails("open", path)) return -1; \
        return real(folder, file, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define CREAT(name) \
    int name(const char *file, mode_t mode) \
    { \
        REAL(int, name, const char *, mode_t); \
        char path[PATH_MAX]; \
        if (counted_name(AT_FDCWD, file, path) && fails("open", path)) return -1; \
        return real(file, mode); \
    }
CREAT(creat)
CREAT(creat64)

#define FOPEN(name) \
    FILE *name(const char *file, const char *mode) \
    { \
        REAL(FILE *, name, const char *, const char *); \
        char path[PATH_MAX]; \
        if ((*mode != 'r' || strchr(mode, '+')) && counted_name(AT_FDCWD, file, path) && fails("open", path)) \
            return NULL; \
        return real(file, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int handle, const void *content, size_t size)
{
    REAL(ssize_t, write, int, const void *, size_t);
    char path[PATH_MAX];
    int counted = counted_handle(handle, path), result = counted ? outcome("write", path) : 0;
    if (result < 0) {
        real(handle, content, size / 2);
        die();
    }
    if (result > 0) return errno = result, -1;
    if (counted && plan.action == HALVES && size > 1) {
        ssize_t half = real(handle, content, size / 2);
        if (half < 0) return half;
        copy_half();
        ssize_t rest = real(handle, (const char *)content + half, size - half);
        return rest < 0 ? half : half + rest;
    }
    return real(handle, content, size);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int handle, const void *content, size_t size, offset_type offset) \
    { \
        REAL(ssize_t, name, int, const void *, size_t, offset_type); \
        char path[PATH_MAX]; \
        int result = counted_handle(handle, path) ? outcome("write", path) : 0; \
        if (result < 0) { \
            real(handle, content, size / 2, offset); \
            die(); \
        } \
        if (result > 0) return errno = result, -1; \
        return real(handle, content, size, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

static ssize_t half_of_parts(int handle, const struct iovec *parts, int count)
{
    size_t left = 0;
    for (int i = 0; i < count; i++) left += parts[i].iov_len;
    left /= 2;
    ours = 1; /* and it dies with it */
    for (int i = 0; i < count && left; i++) {
        size_t now = parts[i].iov_len < left ? parts[i].iov_len : left;
        if (write(handle, parts[i].iov_base, now) < 0) break;
        left -= now;
    }
    die();
    return -1;
}

ssize_t writev(int handle, const struct iovec *parts, int count)
{
    REAL(ssize_t, writev, int, const struct iovec *, int);
    char path[PATH_MAX];
    int result = counted_handle(handle, path) ? outcome("write", path) : 0;
    if (result < 0) return half_of_parts(handle, parts, count);
    if (result > 0) return errno = result, -1;
    return real(handle, parts, count);
}

size_t fwrite(const void *content, size_t size, size_t count, FILE *file)
{
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
    char path[PATH_MAX];
    int result = counted_handle(fileno(file), path) ? outcome("write", path) : 0;
    if (result < 0) {
        ours = 1;
        real(content, 1, size * count / 2, file);
        fflush(file);
        die();
    }
    if (result > 0) return errno = result, 0;
    return real(content, size, count, file);
}

#define SENDFILE(name, offset_type) \
    ssize_t name(int to, int from, offset_type *offset, size_t size) \
    { \
        REAL(ssize_t, name, int, int, offset_type *, size_t); \
        char path[PATH_MAX]; \
        int result = counted_handle(to, path) ? outcome("write", path) : 0; \
        if (result < 0) { \
            real(to, from, offset, size / 2); \
            die(); \
        } \
        if (result > 0) return errno = result, -1; \
        return real(to, from, offset, size); \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *offset, size_t size, unsigned flags)
{
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    char path[PATH_MAX];
    int result = counted_handle(to, path) ? outcome("write", path) : 0;
    if (result < 0) {
        real(from, start, to, offset, size / 2, flags);
        die();
    }
    if (result > 0) return errno = result, -1;
    return real(from, start, to, offset, size, flags);
}

#define TRUNCATE(name, offset_type) \
    int name(int handle, offset_type size) \
    { \
        REAL(int, name, int, offset_type); \
        char path[PATH_MAX]; \
        if (counted_handle(handle, path) && fails("truncate", path)) return -1; \
        return real(handle, size); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define TRUNCATE_NAMED(name, offset_type) \
    int name(const char *file, offset_type size) \
    { \
        REAL(int, name, const char *, offset_type); \
        char path[PATH_MAX]; \
        if (counted_name(AT_FDCWD, file, path) && fails("truncate", path)) return -1; \
        return real(file, size); \
    }
TRUNCATE_NAMED(truncate, off_t)
TRUNCATE_NAMED(truncate64, off64_t)

#define FLUSH(name) \
    int name(int handle) \
    { \
        REAL(int, name, int); \
        char path[PATH_MAX]; \
        int counted = counted_handle(handle, path); \
        if (counted && fails(#name, path)) return -1; \
        int result = real(handle); \
        if (counted && plan.action == CUT && !result) note_flush(handle, path); \
        return result; \
    }
FLUSH(fsync)
FLUSH(fdatasync)

static int two_names(const char *operation, int a, const char *from, int b, const char *to)
{
    char source[PATH_MAX], target[PATH_MAX];
    int counted = counted_name(a, from, source), also = counted_name(b, to, target);
    return (counted || also) && fails(operation, also ? target : source);
}

#define TWO_NAMES(name, operation, a, b, parameters, ...) \
    int name parameters \
    { \
        static int (*real) parameters; \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        if (two_names(operation, a, from, b, to)) return -1; \
        int before = ours; \
        ours = 1; /* it is counted: `on_raw_call` need not */ \
        int result = real(__VA_ARGS__); \
        ours = before; \
        return result; \
    }
TWO_NAMES(rename, "rename", AT_FDCWD, AT_FDCWD, (const char *from, const char *to), from, to)
TWO_NAMES(renameat, "rename", a, b, (int a, const char *from, int b, const char *to), a, from, b, to)
TWO_NAMES(renameat2, "rename", a, b, (int a, const char *from, int b, const char *to, unsigned flags), a, from, b, to,
          flags)
TWO_NAMES(link, "link", AT_FDCWD, AT_FDCWD, (const char *from, const char *to), from, to)
TWO_NAMES(linkat, "link", a, b, (int a, const char *from, int b, const char *to, int flags), a, from, b, to, flags)

#define ONE_NAME(name, folder, parameters, ...) \
    int name parameters \
    { \
        static int (*real) parameters; \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        char path[PATH_MAX]; \
        return counted_name(folder, file, path) && fails(#name, path) ? -1 : real(__VA_ARGS__); \
    }
ONE_NAME(unlink, AT_FDCWD, (const char *file), file)
ONE_NAME(unlinkat, at, (int at, const char *file, int flags), at, file, flags)
ONE_NAME(rmdir, AT_FDCWD, (const char *file), file)
ONE_NAME(mkdir, AT_FDCWD, (const char *file, mode_t mode), file, mode)
ONE_NAME(mkdirat, at, (int at, const char *file, mode_t mode), at, file, mode)

/* ------------------------------------------------------- renames by the machine's own instruction, past libc (Rust) */

#if defined(__x86_64__) || defined(__aarch64__)
#if defined(__x86_64__)
#define ARGUMENT(context, i) ((context)->uc_mcontext.gregs[(int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8}[i]])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#else
#define ARGUMENT(context, i) ((context)->uc_mcontext.regs[i])
#define RESULT(context) ((context)->uc_mcontext.regs[0])
#endif
#define PASS 0x6b65656c /* in an argument that the kernel does not read: a call of ours, to be let through */

static void on_raw_call(int signal, siginfo_t *info, void *given)
{
    (void)signal;
    ucontext_t *context = given;
    int a = ARGUMENT(context, 0), b = ARGUMENT(context, 2), kept = errno;
    const char *from = (const char *)ARGUMENT(context, 1), *to = (const char *)ARGUMENT(context, 3);
    unsigned flags = info->si_syscall == SYS_renameat2 ? ARGUMENT(context, 4) : 0;
    long result = -1;
    if (!two_names("rename", a, from, b, to)) result = syscall(SYS_renameat2, a, from, b, to, flags, PASS);
    RESULT(context) = result < 0 ? -errno : result;
    errno = kept;
}

static void watch_raw_calls(void)
{
    static int watched;
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PASS, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof steps / sizeof *steps, steps};
    struct sigaction action = {.sa_sigaction = on_raw_call, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (watched++ || sigaction(SIGSYS, &action, NULL)) return;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) abort();
}
#else
static void watch_raw_calls(void) {}
#endif
