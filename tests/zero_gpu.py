"""A stand-in for `spaces`, the package of ZeroGPU, as far as it is used here."""

import contextlib
import multiprocessing
import pickle
from collections.abc import Callable

import gradio as gr


class Spaces:
    """Each call in a forked process that gets pickled arguments and gives pickled values; what is
    asked for counts one and a half times against one visitor's quota, `left` seconds."""

    def __init__(self, left: float = 120):
        self.fork, self.processes = multiprocessing.get_context("fork"), []
        self.left, self.asked = left, []

    def GPU(self, duration: Callable[..., int]):
        def decorated(function):
            def generator(*args):
                self.lend(duration(*args))
                args = pickle.loads(pickle.dumps(args))
                here, there = self.fork.Pipe()
                process = self.fork.Process(target=self.child, args=(there, function, args))
                self.processes.append(process)
                process.start()
                there.close()
                try:
                    with contextlib.suppress(EOFError):
                        while True:
                            yield here.recv()
                finally:
                    process.terminate()
                    process.join()

            return generator

        return decorated

    def lend(self, seconds: int) -> None:
        cost = 1.5 * seconds
        if cost > self.left:
            raise gr.Error(
                f"You have exceeded your GPU quota ({cost:.0f}s requested vs. {self.left:.0f}s "
                'left). <a href="https://huggingface.co/join">Create an account</a> to get more.'
            )
        self.left -= cost
        self.asked.append(seconds)

    @staticmethod
    def child(pipe, function, args) -> None:
        for value in function(*args):
            pipe.send(value)
        pipe.close()
