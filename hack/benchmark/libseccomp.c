/* What hack/benchmark/seccomp.rs measures, for libseccomp: compiling a profile,
 * loading the filter, and a system call under it. Built and run by
 * hack/benchmark/seccomp, which also makes the input, a line for each
 *
 *   default ACTION
 *   arch TOKEN
 *   rule ACTION NAME COUNT [INDEX OP A B]...
 *
 * usage: libseccomp OPTIMIZE <RULES     OPTIMIZE: 1 linear, 2 binary tree
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RULES = 8192, COMPILES = 50, LOADS = 200, BATCHES = 20, CALLS = 50000 };

struct rule {
	uint32_t action;
	int syscall;
	unsigned int count;
	struct scmp_arg_cmp args[6];
};

static uint32_t default_action, arches[8];
static unsigned int arch_count, rule_count;
static struct rule rules[MAX_RULES];
static struct sock_filter filter[BPF_MAXINSNS];
static unsigned int length;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median_us(double *samples, int count)
{
	qsort(samples, count, sizeof(*samples), ascending);
	return samples[count / 2] / 1000;
}

static void read_rules(void)
{
	char word[16], name[64];

	while (scanf("%15s", word) == 1) {
		if (!strcmp(word, "default")) {
			if (scanf("%x", &default_action) != 1)
				die("default");
		} else if (!strcmp(word, "arch")) {
			if (arch_count == 8 || scanf("%x", &arches[arch_count++]) != 1)
				die("arch");
		} else {
			struct rule *rule = &rules[rule_count];

			if (rule_count == MAX_RULES ||
			    scanf("%x %63s %u", &rule->action, name, &rule->count) != 3 ||
			    rule->count > 6)
				die("rule");
			for (unsigned int i = 0; i < rule->count; i++) {
				struct scmp_arg_cmp *arg = &rule->args[i];
				unsigned int op;

				if (scanf("%u %u %lu %lu", &arg->arg, &op,
					  &arg->datum_a, &arg->datum_b) != 4)
					die("condition");
				arg->op = op;
			}
			rule->syscall = seccomp_syscall_resolve_name(name);
			if (rule->syscall != __NR_SCMP_ERROR && rule->action != default_action)
				rule_count++;
		}
	}
}

/* As runc does it, without its own additions. */
static void compile(int optimize)
{
	scmp_filter_ctx ctx = seccomp_init(default_action);
	int fd = memfd_create("filter", MFD_CLOEXEC);
	ssize_t size;

	if (!ctx || fd < 0)
		die("seccomp_init");
	for (unsigned int i = 0; i < arch_count; i++) {
		int rc = seccomp_arch_add(ctx, arches[i]);

		if (rc && rc != -EEXIST)
			die("seccomp_arch_add");
	}
	if (seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, optimize))
		die("SCMP_FLTATR_CTL_OPTIMIZE");
	for (unsigned int i = 0; i < rule_count; i++) {
		struct rule *rule = &rules[i];
		int rc = seccomp_rule_add_array(ctx, rule->action, rule->syscall,
						rule->count, rule->args);

		if (rc) {
			fprintf(stderr, "rule %u: %s\n", i, strerror(-rc));
			exit(2);
		}
	}
	if (seccomp_export_bpf(ctx, fd))
		die("seccomp_export_bpf");
	size = pread(fd, filter, sizeof(filter), 0);
	if (size <= 0)
		die("pread");
	length = size / sizeof(*filter);
	close(fd);
	seccomp_release(ctx);
}

static double call_ns(long number)
{
	double best = 1e9;

	for (int batch = 0; batch < BATCHES; batch++) {
		double start = now_ns(), each;

		for (int i = 0; i < CALLS; i++)
			syscall(number, 0xffffffffUL);
		each = (now_ns() - start) / CALLS;
		best = each < best ? each : best;
	}
	return best;
}

/* In a child: the time of loading, and of the calls if asked for. */
static void filtered(int calls, double result[3])
{
	struct sock_fprog program = { .len = length, .filter = filter };
	int status;
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0) {
		double start;

		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		start = now_ns();
		if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
			_exit(1);
		result[0] = now_ns() - start;
		if (calls) {
			result[1] = call_ns(SYS_getppid);
			result[2] = call_ns(SYS_personality);
		}
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		die("filtered child");
}

int main(int argc, char **argv)
{
	double compiles[COMPILES], loads[LOADS];
	int optimize = argc > 1 ? atoi(argv[1]) : 1;
	double *result = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (result == MAP_FAILED)
		die("mmap");
	read_rules();
	for (int i = 0; i < COMPILES; i++) {
		double start = now_ns();

		compile(optimize);
		compiles[i] = now_ns() - start;
	}
	for (int i = 0; i < LOADS; i++) {
		filtered(i == LOADS - 1, result);
		loads[i] = result[0];
	}
	printf("{\"compile_us\": %.1f, \"instructions\": %u, \"load_us\": %.1f, "
	       "\"getppid_ns\": %.1f, \"personality_ns\": %.1f}\n",
	       median_us(compiles, COMPILES), length, median_us(loads, LOADS),
	       result[1], result[2]);
	return 0;
}
