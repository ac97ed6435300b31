from lib.model import NAME
