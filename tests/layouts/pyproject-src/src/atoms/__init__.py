from atoms.sizes import LARGEST
