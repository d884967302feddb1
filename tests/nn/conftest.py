from tests.classify.conftest import small_digits

__all__ = ["small_digits"]
