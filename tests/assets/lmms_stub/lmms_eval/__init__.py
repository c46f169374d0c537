"""The part of lmms-eval that the tests of ``framefold eval`` need, for environments without it.

Names, abstract class, requests and results are those of lmms-eval 0.7.3; tasks are read from the YAML files of
``tests/assets/lmms_tasks``. If the real lmms-eval is installed (make lmms), the tests run with it as well.
"""
