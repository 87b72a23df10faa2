"""The machine's side of drive.py: runs the commands that come on the second serial line, one a line in JSON, and sends back
what they print, each line with `| ` in front, and their exit status."""

import json
import subprocess
import tty

LINE = "/dev/ttyS1"


def main():
    with open(LINE, "rb+", buffering=0) as line:
        tty.setraw(line)

        def say(text):
            data = text.encode(errors="backslashreplace") + b"\n"
            while data:
                data = data[line.write(data) :]

        say("ready")
        asked = b""
        while True:
            asked += line.read(1)
            if not asked.endswith(b"\n"):
                continue
            command = json.loads(asked)
            asked = b""
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/") as child:
                for printed in child.stdout:
                    say("| " + printed.decode(errors="backslashreplace").rstrip("\n"))
            say(f"exit {child.returncode}")


main()
