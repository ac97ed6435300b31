def main():
    print("the command runs")
