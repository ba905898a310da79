/* libgearman's client and worker, for benchmarks/peers/on_libgearman.py.
 *
 * usage: libgearman HOST PORT MODE COUNT; MODE is work, round_trip, enqueue, bulk, payload or version.
 * The client's modes print the seconds that COUNT jobs took.
 */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 1000
#define MEBIBYTE (1024 * 1024)

static const char *noop = "main.noop";
static const char *echo = "main.echo";

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static gearman_return_t nothing(gearman_job_st *job, void *context) {
    (void)job, (void)context;
    return GEARMAN_SUCCESS;
}

static gearman_return_t back(gearman_job_st *job, void *context) {
    (void)context;
    return gearman_job_send_complete(job, gearman_job_workload(job), gearman_job_workload_size(job));
}

static void work(const char *host, in_port_t port) {
    gearman_worker_st *worker = gearman_worker_create(NULL);
    if (gearman_failed(gearman_worker_add_server(worker, host, port))) fail("worker", gearman_worker_error(worker));
    gearman_worker_define_function(worker, noop, strlen(noop), gearman_function_create(nothing), 0, NULL);
    gearman_worker_define_function(worker, echo, strlen(echo), gearman_function_create(back), 0, NULL);
    while (gearman_success(gearman_worker_work(worker))) {}
    fail("worker", gearman_worker_error(worker));
}

static void one(gearman_client_st *client, const char *function, const char *data, size_t size) {
    gearman_return_t code;
    size_t length;
    free(gearman_client_do(client, function, NULL, data, size, &length, &code));
    if (gearman_failed(code)) fail("do", gearman_client_error(client));
    if (length != size) fail("do", "another text came back than was sent");
}

static void bulk(gearman_client_st *client, int count) {
    gearman_return_t code;
    while (count > 0) {
        for (int task = 0; task < WINDOW && count > 0; task++, count--) {
            if (gearman_client_add_task_background(client, NULL, NULL, noop, NULL, "x", 1, &code) == NULL)
                fail("add task", gearman_client_error(client));
        }
        if (gearman_failed(gearman_client_run_tasks(client))) fail("run tasks", gearman_client_error(client));
        gearman_client_task_free_all(client);
    }
}

int main(int argc, char **argv) {
    if (argc != 5) fail("usage", "libgearman HOST PORT MODE COUNT");
    const char *host = argv[1], *mode = argv[3];
    in_port_t port = (in_port_t)atoi(argv[2]);
    int count = atoi(argv[4]);
    if (!strcmp(mode, "version")) return puts(gearman_version()) < 0;
    if (!strcmp(mode, "work")) work(host, port);
    gearman_client_st *client = gearman_client_create(NULL);
    if (gearman_failed(gearman_client_add_server(client, host, port))) fail("client", gearman_client_error(client));
    char *large = malloc(MEBIBYTE);
    memset(large, 'x', MEBIBYTE);
    double started = now();
    if (!strcmp(mode, "bulk")) {
        bulk(client, count);
    } else {
        for (int number = 0; number < count; number++) {
            gearman_job_handle_t handle;
            if (!strcmp(mode, "round_trip")) one(client, noop, NULL, 0);
            else if (!strcmp(mode, "payload")) one(client, echo, large, MEBIBYTE);
            else if (gearman_failed(gearman_client_do_background(client, noop, NULL, "x", 1, handle)))
                fail("do background", gearman_client_error(client));
        }
    }
    printf("%.9f\n", now() - started);
    gearman_client_free(client);
    return 0;
}
