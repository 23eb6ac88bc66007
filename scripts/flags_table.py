#!/usr/bin/env python3
"""Writes finetuned's settings, as its --help tells them, into a table.

  flags_table.py PROGRAM FILE          between the two marks in the Markdown FILE
  flags_table.py PROGRAM FILE --check  fails where FILE has another table
"""
import os
import re
import subprocess
import sys

BEGIN, END = "<!-- flags -->\n", "<!-- /flags -->\n"
FLAG = re.compile(r"  (--\w+)(?: (.*?))?(?:=(\S*))? \(Env:(\w+)\)$")
# Defaults that depend on the machine.
DEFAULTS = {"--threads": "cores", "--decode_threads": "cores", "--preprocess_threads": "cores",
            "--trainer": "beside `finetuned`"}


def rows(program):
    environment = {"HOME": "/home/user", "PATH": os.environ["PATH"]}
    help_text = subprocess.run([program, "--help"], env=environment, check=True,
                               capture_output=True, text=True).stdout
    lines = help_text.splitlines()
    for line, text in zip(lines, lines[1:]):
        if match := FLAG.match(line):
            flag, _, default, variable = match.groups()
            value = DEFAULTS.get(flag) or (f"`{default.replace('/home/user', '~')}`" if default else "")
            yield f"| `{flag}` | `{variable}` | {value} | {text.strip().replace('|', '/')} |\n"


def main():
    program, file, *options = sys.argv[1:]
    with open(file, encoding="utf-8") as f:
        text = f.read()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    table = "| flag | environment variable | default | meaning |\n|---|---|---|---|\n" + "".join(rows(program))
    new = before + BEGIN + table + END + after
    if new == text:
        return
    if options == ["--check"]:
        sys.exit(f"{file}: its table is not what {program} --help says; run {sys.argv[0]}")
    with open(file, "w", encoding="utf-8") as f:
        f.write(new)


if __name__ == "__main__":
    main()
