import markdown_it
import packaging
import six

print("six", six.__version__, "packaging", packaging.__version__)
print(markdown_it.MarkdownIt().render("*done*"), end="")
