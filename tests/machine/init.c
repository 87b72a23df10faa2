/* The first program of the machine: loads the modules that the root file system is on, in the order of their names, and
 * hands over to systemd. It takes the place of Debian's initramfs, whose udev takes longer than the rest of an emulated boot. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DISK "/dev/vda"

static void complain(const char *what)
{
    fprintf(stderr, "init: %s: %s\n", what, strerror(errno));
}

static void load_modules(void)
{
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, alphasort);

    for (int i = 0; i < count; i++) {
        char path[512];
        int file;

        if (names[i]->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/modules/%s", names[i]->d_name);
        file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0 || (syscall(SYS_finit_module, file, "", 0) != 0 && errno != EEXIST))
            complain(path);
        close(file);
    }
}

int main(void)
{
    char *const arguments[] = {"/sbin/init", NULL};

    mkdir("/dev", 0755);
    mkdir("/root", 0755);
    if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) != 0)
        complain("/dev");
    load_modules();
    for (int tries = 0; access(DISK, F_OK) != 0 && tries < 3000; tries++)
        usleep(10000);
    if (mount(DISK, "/root", "ext4", MS_NOATIME, NULL) != 0)
        complain(DISK);
    if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) != 0)
        complain("/root/dev");
    if (chdir("/root") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0)
        complain("/root");
    execv(arguments[0], arguments);
    complain(arguments[0]);
    return 1;
}
