"""Measure where the time of a training run goes."""


def main() -> None:
    from dist_ft.diagnostics import benchmark

    benchmark.main()


if __name__ == "__main__":
    main()
