"""As much of lmms-eval as the tests of ``framefold eval`` need where it is not installed.

It has the names, the abstract class, the form of the requests and of what is returned of lmms-eval 0.7.3, and reads the
YAML of ``tests/assets/lmms_tasks``. The tests run against the real one as well, where that is (make lmms).
"""
