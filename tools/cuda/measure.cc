// File: measure.cc
//
// measure FILE COMMAND ARGUMENT...: runs the command and writes what it cost to FILE, as
// {"cpu_seconds": ..., "peak_kib": ...}: user and system time of all its processes together, and
// the resident memory of the largest one. Leaves with the command's status.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const pid_t child = fork();
  if (child == 0) {
    execv(argv[2], argv + 2);
    perror(argv[2]);
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 1;
  rusage used{};
  getrusage(RUSAGE_CHILDREN, &used);
  const double seconds = used.ru_utime.tv_sec + used.ru_stime.tv_sec +
                         1e-6 * (used.ru_utime.tv_usec + used.ru_stime.tv_usec);
  FILE* out = fopen(argv[1], "w");
  if (out == nullptr) return 1;
  fprintf(out, "{\"cpu_seconds\": %.2f, \"peak_kib\": %ld}\n", seconds, used.ru_maxrss);
  if (fclose(out) != 0) return 1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
