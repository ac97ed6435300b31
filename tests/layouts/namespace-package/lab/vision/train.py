from lab.vision.models.small import SIZE

print(SIZE, __package__)
