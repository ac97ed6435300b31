import secretdata
import secretnet

print(secretnet.NAME, secretdata.NAME)
