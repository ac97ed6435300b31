import tiny

print("tiny", tiny.SIZE)
