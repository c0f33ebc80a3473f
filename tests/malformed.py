"""A grammar of calls of the command line: valid arguments, of which some are replaced by odd ones."""

from __future__ import annotations

import random

__all__ = ["FUNCTIONS", "TEXTS", "call"]

ODD = [
    "", " ", "[/red]", "[cat:dog:0.5]", "\udcff", "-1", "0", "1e9", "1e400", "nan", "inf", "-inf", "x" * 5000,
    "..", "/", ".",
    "/dev/null", "/dev/zero", "/proc/self/mem", "pipe.txt", "nowhere", "nowhere/at/all", "a\nb", "%s%n", "{}",
    "{0}", "💥",
    "üö鸭", "--", "-", "=", ":", ",", ";", "::", "a:b:c", "a=b", "99999999999999999999", "9" * 5000, "0x10", "True",
    "None",
    "\x1b[2J", "$\\x{", "file", "locked/x", "deep/" * 900, "name" * 80, "../" * 50, "a\\", "'", '"', "~nobody", "*",
]  # fmt: skip

REWARDS = {
    "valid": ["brightness", "contrast:0.5", "jpeg", "darkness:clamp=0.5,weight=2", "mine.py:light",
    "brightness:cutouts=2"],
    "odd": [
        *(f"mine.py:{name}" for name in (
            "exits", "hard", "generator", "keyboard", "mute", "loud", "closes", "sparse", "meta", "small",
            "complexes",
            "nothing", "words", "column", "nans", "infinite", "thread", "child", "inplace", "couples", "deep",
            "absent",
            "backward", "backward_exit", "number", "late", "memory",
        )),
        "brocken.py:f", "binary.py:f", "quits.py:f", "empty.py:f", "folder.py:f", "nowhere.py:f", ".py:",
        "mine.py:", "jpeg:",
        "brightness:nan", "brightness:1e999", "brightness:cutouts=1000000000", "brightness:cutouts=0",
        "brightness:unit=maybe",
        "brightness:clamp=nan", "brightness:weight=x", "brightness:name=[/x]", "brightness:name=", "brightness:=",
        "clip:model=",
        "classifier:model=nowhere,target=0", "similarity:nowhere.png", "hpsv2:version=9",
        "http://127.0.0.1:9:retries=0",
        "http://127.0.0.1:9:timeout=0.1", "http://127.0.0.1:9:timeout=-1", "http://", "http://[",
        "https://127.0.0.1:x",
        "http://127.0.0.1:99999:retries=0", "ftp://a", "brightness,contrast", "brightnes",
    ],
}  # fmt: skip

FUNCTIONS = """
import os, subprocess, sys, threading, time
import torch

def light(x): return x.mean((1, 2, 3))
def exits(x): sys.exit(0)
def hard(x): os._exit(0)
def generator(x): raise GeneratorExit
def keyboard(x): raise KeyboardInterrupt
class Mute(Exception):
    def __str__(self): raise Mute
def mute(x): raise Mute
def loud(x): raise ValueError("line\\n" * 3000 + "[/red]\\x1b[2J\\udcff")
def closes(x): sys.stderr.close(); os.close(2); return light(x)
def sparse(x): return light(x).to_sparse()
def meta(x): return torch.zeros(len(x), device="meta")
def small(x): return light(x).to(torch.float8_e4m3fn)
def complexes(x): return light(x) + 1j
def nothing(x): return None
def words(x): return ["good"] * len(x)
def column(x): return light(x)[:, None]
def nans(x): return light(x) * float("nan")
def infinite(x): return light(x) / 0
def thread(x): threading.Thread(target=time.sleep, args=(300,)).start(); return light(x)
def child(x): subprocess.Popen(["sleep", "300"]); return light(x)
def inplace(x): x.sub_(0.5); return light(x)
def couples(x): return light(x) - x.mean()
def deep(x): return deep(x)
def number(x): return 1
def memory(x): raise MemoryError
calls = []
def late(x):
    calls.append(1)
    if len(calls) > 1: raise ValueError("late")
    return light(x)
class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, error): ctx.error = error; return light(x)
    @staticmethod
    def backward(ctx, g): raise ctx.error
def backward(x): return Raises.apply(x, ValueError("in\\nbackward"))
def backward_exit(x): return Raises.apply(x, SystemExit(0))
"""

TEXTS: dict[str, bytes] = {
    "p.txt": b"a\n# b\n\na b\n", "one.txt": b"a\n", "empty.txt": b"\n", "bom.txt": b"\xef\xbb\xbfa\n",
    "latin.txt": b"caf\xe9\n",
    "utf16.txt": "a\n".encode("utf-16"), "binary.txt": bytes(range(256)), "nul.txt": b"a\0b\n",
    "odd.txt": b"[/red]\n:duck:\n",
    "same.txt": b"a\n" * 50, "long.txt": b"a" * 200_000 + b"\n", "p.yaml": b"a\n",
    "p.jsonl": b'{"prompt": "a", "steps": 1}\n',
    "deep.jsonl": b'{"prompt": ' + b"[" * 100_000 + b"\n", "half.jsonl": b'{"prompt": "a \\ud800"}\n',
    "list.jsonl": b"[1]\n",
    "nan.jsonl": b'{"prompt": "a", "target": NaN}\n', "old.jsonl": b'{"prompt": "a", "lr": 0.1}\n',
    "seeds.jsonl": b'{"prompt": "a", "seeds": 1e9}\n',
    "kinds.jsonl": b'{"prompt": "a", "reward": {"x": 1}, "steps": [], "call.x": {}}\n',
    "unknown.jsonl": b'{"promt": "a"}\n',
    "self.jsonl": b'{"prompt": "a", "call.self": 1}\n', "cut.jsonl": b'{"prompt": "a"',
    "big.jsonl": b'{"prompt": "a", "seed": 1e300}\n',
    "model.jsonl": b'{"prompt": "a", "model": "a\\u0000b"}\n', "lora.jsonl": b'{"prompt": "a", "lora": "\\u0000"}\n',
    "p.csv": b"prompt,steps\na,1\n", "unknown.csv": b"prompt,colour\na,red\n", "twice.csv": b"prompt,prompt\na,a\n",
    "cells.csv": b"prompt,eta\na,b,c\n", "quote.csv": b'prompt\n"a\n', "head.csv": b"prompt,id\n",
    "set.csv": b'prompt,call.height\na,{1}\n',
    "nothing.csv": b"", "id.csv": b"prompt,id\na,../x\n", "run.toml": b"steps = 0\nseed = 'x'\n",
    "brocken.py": b"def f(:\n", "binary.py": bytes(range(256)),
    "quits.py": b"import sys; sys.exit(0)\n", "empty.py": b"", "file": b"",
}  # fmt: skip


def call(seed: int) -> list[str]:
    """The arguments of a call."""
    dice = random.Random(seed)
    words = _words(dice)
    return [one.replace("\0", "") for one in words]


def _words(dice: random.Random) -> list[str]:
    command = dice.choices(
        ["align", "batch", "compare", "resume", "replay", "render", "export", "show", "list", "models", "rewards",
        "doctor", "serve", "other"],
        [40, 25, 8, 5, 3, 4, 4, 4, 4, 2, 3, 2, 4, 2],
    )[0]  # fmt: skip
    odd = [dice.random() < 0.25 for _ in range(3)]
    shared = ["--model", "model", "--num-inference-steps", "2", "--height", "16", "--width", "16"]
    reward = ["--reward", dice.choice(REWARDS["odd" if odd[0] else "valid"])]
    more = [part for _ in range(dice.choice([0, 1, 1, 2])) for part in _option(dice, command)]
    if command == "align":
        prompts = [dice.choice(ODD) if odd[1] else "a"] * dice.choice([1, 1, 2])
        steps = ["--steps", dice.choice(["0", "1"])]
        return ["align", *prompts, *reward, *steps, *shared, *more, *(["-q"] if dice.random() < 0.5 else [])]
    if command == "batch":
        file = (
            dice.choice([*(name for name in TEXTS if not name.endswith(".py")), *ODD]) if odd[1] or odd[2] else "p.txt"
        )
        return ["batch", file, *reward, "--steps", "0", "--out", "new", *shared, *more]
    if command == "compare":
        prompts = dice.choice([*(name for name in TEXTS if name.endswith("txt")), *ODD]) if odd[1] else "a"
        methods = dice.choice(["best-of-n", "reno", "dno:lr=0.1", "dno:lr=x", "nosuch", "best-of-n,best-of-n", ""])
        budget = dice.choice(["nfe=8", "nfe=8", "nfe=-1", "nfe=nan", "seconds=x", "hours=3", ""])
        given = ["--prompts", prompts, "--methods", methods, "--budget", budget, "--seeds", "1", "--out", "new"]
        return ["compare", *given, *reward, *shared, *more]
    runs = dice.choice(["done", "done", "done", "packs", "packs/packs/0000", *dice.sample(ODD, 4)])
    if command in ("resume", "replay", "render", "export", "show", "list"):
        return [command, runs, *more]
    if command in ("models", "doctor"):
        return [
            command,
            *(["--model", dice.choice(["model", *ODD])] if command == "doctor" else [dice.choice(ODD)]),
            *more,
        ]
    if command == "rewards":
        return [
            "rewards",
            *dice.choice([[], [dice.choice(["fetch", "describe"]), dice.choice([*ODD, *REWARDS["odd"]])]]),
        ]
    if command == "serve":  # only what does not come up
        wrong = dice.choice(
            [["--port", dice.choice(["-1", "99999", "x", ""])], ["--host", "0.0.0.0"], ["--token", "a b"]]
        )
        return ["serve-reward", dice.choice([*REWARDS["valid"], *REWARDS["odd"][-20:]]), *wrong]
    return [dice.choice(ODD) for _ in range(dice.choice([0, 1, 2, 3]))]


METHODS = [
    "dno:lr=0.1",
    "dno:estimator=hybrid2:samples=2",
    "dno:estimator=hybrid2:samples=1e20",
    "dno:estimator=annealed:x",
    "dno:estimator=zeroth-order:samples=0",
    "dno:estimator=backprop:steps=0",
    "dno:best_of=2",
    "dno:best_of=1000000000",
    "dno:coarse=1",
    "dno:guard=none",
    "dno:guard=shell:x",
    "dno:guard=concentration:min_probability=9",
    "dno:project=norm",
    "dno:project=start+spectral",
    "dno:project=+",
    "dno:",
    "dno:,",
    "dno:lr=",
    "best-of-n:samples=2",
    "evolution:2",
    "fk",
    "dps",
    "trust-region:samples=100000000000000000000",
    "reno:momentum=1",
]
NUMBERS = ["-1", "x", "1.5", "nan", "inf", "", "1e400", "9" * 50, "0x1"]
OPTIONS: dict[str, list[str]] = {
    "--out": ["out", "done", "packs", "file", "file/x", "locked/x", "[/b]x", *ODD],
    "--seed": ["3", *NUMBERS], "--batch": ["2", "0", "1000000", "1000000000", *NUMBERS],
    "--seeds": ["2", "0", "1000000000", *NUMBERS], "--pack": ["1", "0", "1000000000", *NUMBERS],
    "--target": ["0.5", *NUMBERS],
    "--seconds": ["0", *NUMBERS], "--nfe": ["0", "9", *NUMBERS[:6]],
    "--method": [*METHODS, *ODD, *(f"dno:{name}={value}" for name in ("lr", "best_of", "coarse") for value in NUMBERS)],
    "--lr": ["0.1"], "--search": ["fk"],  # of earlier versions
    "--spec": ["run.toml", "file", "nowhere.toml", *ODD],
    "--watch": ["contrast", "none", "brightness", "mine.py:exits", "mine.py:nans", "contrast:2", *ODD],
    "--watch-every": ["2", "0", *NUMBERS], "--memory": ["fast", "low",
    "auto", *ODD],
    "--device": ["cpu", "cuda:x", "cpu:x", "cuda:99", "meta", "mps", *ODD], "--dtype": ["float32", "float64",
    "int8", *ODD],
    "--scheduler": ["ddim", "euler", "nosuch", "DDIMScheduler", *ODD], "--lora": ["nowhere", "file", "model", *ODD],
    "--num-inference-steps": ["3", "0", "1001", "1000000000", *NUMBERS], "--height": ["24", "0", "7", *NUMBERS],
    "--width": ["24", "0", *NUMBERS], "--guidance-scale": ["0", *NUMBERS], "--eta": ["0", "2", *NUMBERS],
    "--negative-prompt": ["b", *ODD], "--engine": ["local", "nosuch", *ODD], "--workers": ["2", "0"],
    "--threads": ["1", "0", "x"],
    "--template": ["a {}", "{} [/t]", "{{}}", "{}" * 1000, *ODD], "--model": ["model", "file", "folder.py",
    "owner/name", *ODD],
    "--set": [
        "height={1}", "self=1", "pipe=1", "memory=low", "prompt=b", "generator=1", "eta=0.5", "x=1", "=", "a",
        "height=b'x'",
        "height=1j", "guidance_rescale=[[1]]", "timesteps=[5, 1]", "width=" + "(" * 3000, "image=pipe.txt",
        "latents=1",
        "output_type=latent", "num_images_per_prompt=2", "negative_prompt=" + "x" * 3000, "height=1e999", *ODD,
    ],
    "--steps": ["2", "+1", "+x", "", "-1", "1.5", "nan"], "--grid": ["g.png", "g.txt", "g.mp4", *ODD],
    "--csv": ["s.csv", *ODD],
    "--animation": ["a.gif", "a.webp", "a.png", *ODD], "--sort": ["gain", "name", *ODD], "--state": ["done", *ODD],
    "--limit": ["1", "0", "x"], "--prompt": ["a", *ODD], "--json": [], "--quiet": [], "--reverse": [],
    "--nosuch": ["1"], "--cosine": ["0.9", "1", *NUMBERS],
    "--image": ["done/best/00.png", "pipe.txt", "file", *ODD], "--mask-image": ["done/best/00.png", *ODD],
    "--control-image": ["done/best/00.png", *ODD], "--controlnet": ["model", "done", "owner/name", *ODD],
    "--ip-adapter": ["model", "owner/name", "owner/name/x.safetensors", "file", *ODD],
    "--ip-adapter-image": ["done/best/00.png", *ODD], "--ip-adapter-scale": ["0.5", *NUMBERS],
    "--task": ["text2img", "img2img", "inpaint", "controlnet", *ODD], "--strength": ["0.5", "1", "0", *NUMBERS],
}  # fmt: skip
TAKES = {
    "resume": ["--steps", "--seconds", "--nfe", "--memory", "--quiet"], "replay": ["--out"], "show": ["--nosuch"],
    "export": ["--grid", "--csv", "--animation"], "list": ["--sort", "--state", "--limit", "--prompt", "--reverse"],
    "doctor": ["--device", "--dtype", "--scheduler", "--memory", "--set", "--num-inference-steps"],
    "models": ["--nosuch"],
    "render": ["--num-inference-steps", "--scheduler", "--height", "--width", "--seeds", "--cosine", "--out", "--json"],
    "align": [name for name in OPTIONS if name not in ("--grid", "--csv", "--animation", "--sort", "--state",
    "--limit", "--reverse", "--cosine",
              "--prompt", "--seeds", "--pack", "--template", "--engine", "--workers", "--threads", "--json",
              "--steps")],
}  # fmt: skip
TAKES["batch"] = [
    *(name for name in TAKES["align"] if name != "--batch"),
    "--seeds",
    "--pack",
    "--template",
    "--engine",
    "--json",
]
TAKES["compare"] = [
    "--out", "--seeds", "--seed", "--watch", "--device", "--memory", "--set", "--height", "--engine", "--threads",
    "--model",
]  # fmt: skip


def _option(dice: random.Random, command: str) -> list[str]:
    name = dice.choice(TAKES.get(command, ["--nosuch"]))
    values = OPTIONS[name]
    return [name, dice.choice(values)] if values else [name]
