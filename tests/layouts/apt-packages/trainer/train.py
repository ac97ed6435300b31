import os

print(os.access("/usr/games/sl", os.X_OK), os.listdir("/var/lib/apt/lists"))
