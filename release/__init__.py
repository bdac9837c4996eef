"""What is made of a checkout to be given to others: wheels, and the kernels as a package of their own."""
