"""Classify images with a trained network."""


def main() -> None:
    from dist_ft.inference import predictor

    predictor.main()


if __name__ == "__main__":
    main()
