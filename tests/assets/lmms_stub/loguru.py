"""The part of loguru that is called."""


class Logger:
    def remove(self): ...

    def configure(self, patcher): ...

    def add(self, sink, level): ...


logger = Logger()
