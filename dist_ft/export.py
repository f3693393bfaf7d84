"""Export a trained network for deployment."""


def main() -> None:
    from dist_ft.inference import exporter

    exporter.main()


if __name__ == "__main__":
    main()
