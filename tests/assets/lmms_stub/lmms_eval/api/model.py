"""The abstract class that a model implements."""

import abc


class lmms(abc.ABC):
    is_simple = True

    def __init__(self):
        self.task_dict = {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...
