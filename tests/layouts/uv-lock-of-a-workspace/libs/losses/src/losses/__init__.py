KINDS = ["mse", "mae"]
