"""A page as its readers meet it: headings in order, tables with names, figures with words."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input", "col"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parents: list["Element"]
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def has_parent(self, class_name: str) -> bool:
        return any(class_name in parent.attributes.get("class", "").split() for parent in self.parents)

    def find(self, tag: str) -> list["Element"]:
        found = [child for child in self.children if child.tag == tag]
        return found + [deeper for child in self.children for deeper in child.find(tag)]

    def read(self) -> str:
        return self.text + "".join(child.read() for child in self.children)


class PageReader(HTMLParser):
    """Build the tree of a page; a tag that is not closed, or closed twice, is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.root = Element("", {}, [])
        self.stack = [self.root]
        self.order: list[Element] = []
        self.feed(page)
        assert self.stack == [self.root], f"not closed: {[element.tag for element in self.stack[1:]]}"

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {name: value or "" for name, value in attrs}, list(self.stack))
        self.stack[-1].children.append(element)
        self.order.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_endtag(self, tag):
        assert self.stack[-1].tag == tag, f"</{tag}> closes <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data):
        self.stack[-1].text += data

    def find(self, *tags: str) -> list[Element]:
        return [element for element in self.order if element.tag in tags]
