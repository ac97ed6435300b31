import by_cfg
import by_py
import deep_net
import shared

print(shared.NAME, deep_net.LAYERS)
print(by_cfg.NAME, by_py.NAME, sep=", ")
