import deep_net
import shared

print(shared.NAME, deep_net.LAYERS)
