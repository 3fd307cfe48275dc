"""A process for test_faults.py that has imported everything and forks a child for each job: real processes, to be killed, without the wait.

One line of JSON in, one out. {"job": …} starts a child and answers its number, {"wait": number} answers its exit status, minus the signal.
"""
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

import torch

import simclr.baseline
import simclr.pretrain
from simclr.cli import main
from simclr.data import load_images
from simclr.files import alone, write_json
from simclr.model import build_encoder, save_encoder


def command(*line): main(line)


def write_for_ever(kind, path, mark):
    "Version after version of a file, each of one number; the mark is made when the first is whole."
    write, data, path = writers()[kind], torch.zeros(1_500_000), Path(path)
    for version in range(1_000_000):
        write(data.fill_(version), path)
        if version == 0: Path(mark).touch()


def writers():
    encoder = build_encoder("resnet8", width=64)
    def as_encoder(data, path):
        for v in encoder.net.state_dict().values(): v.fill_(data[0])
        save_encoder(encoder, path)
    return dict(checkpoint=lambda data, path: simclr.pretrain.WholeFile().save_checkpoint(dict(state_dict=dict(data=data)), path),
                plain=lambda data, path: torch.save(dict(state_dict=dict(data=data)), path), encoder=as_encoder,
                record=lambda data, path: write_json(dict(data=data[:100_000].tolist()), path))


def hold(folder, mark):
    "Take a folder's lock, and leave a child behind, as a loader's workers are left behind for some seconds."
    with alone(folder):
        if child := os.fork():
            Path(mark).write_text(str(child))
            signal.pause()
        signal.pause()


def run(job, cwd, args, limit=None, user=None):
    "In the child: files in place of the terminal, a limit to the size of a file as a full disk, perhaps another user; then the job."
    os.setpgid(0, 0)
    os.chdir(cwd)
    for number, name in ((1, "out"), (2, "err")): os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if user is not None: os.setuid(user)
    dict(command=command, write=write_for_ever, hold=hold)[job](*args)


def child(request):
    code = 1
    try:
        run(**request)
        code = 0
    except SystemExit as e: code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    load_images("digits", image_size=8)                            # imports what reads them
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request: answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else: answer = os.fork() or child(request)
        print(json.dumps(answer), file=answers, flush=True)
