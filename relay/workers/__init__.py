"""Several processes that take mail on the same ports: a parent that starts and watches them, and the workers."""
