class Linear:
    slope = 2
