"""Reading XML of unknown origin: no entities, nothing fetched, bounded size, depth and number of elements."""

import base64
import binascii
import re
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ..record import EcgFormatError
from .fields import decode_text

MAX_XML_BYTES = 2**25
"""Largest XML file parsed (32 MiB); a 10 s recording has below 1 MB."""

MAX_DEPTH = 64
"""Deepest nesting of elements; the deepest of the known formats (HL7 aECG) reaches about 20."""

MAX_MARKUP = 200_000
"""Most tags and attributes together; an export with all measurements has some ten thousands."""


_DECLARED = re.compile(rb"\s*<\?xml[^>]{0,100}?encoding\s{0,9}=\s{0,9}[\"']([-\w.]{1,40})[\"']", re.IGNORECASE)
# The parser knows UTF-8, UTF-16 and the encodings of one byte per character. Of those of East Asia the wider one is
# taken, as files that declare GB2312 hold characters of GBK.
_WIDE_ENCODINGS = {
    **dict.fromkeys(("gb2312", "gbk", "gb18030", "cp936", "euc-cn"), "gb18030"),
    **dict.fromkeys(("shift-jis", "sjis", "x-sjis", "windows-31j", "cp932", "ms932"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks-c-5601-1987", "cp949", "windows-949", "uhc"), "cp949"),
    **dict.fromkeys(("big5", "cp950", "big5-eten"), "cp950"),
    "big5-hkscs": "big5hkscs",
    "euc-jp": "euc-jp",
    "iso-2022-jp": "iso2022-jp",
}


class _BoundedBuilder(TreeBuilder):
    """Builds the tree without namespaces and stops at the greatest depth."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0

    def start(self, tag: str, attributes: dict[str, str]) -> Element:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise EcgFormatError(f"Expected XML at most {MAX_DEPTH} levels deep, got more. This is not an ECG export.")
        return super().start(_local(tag), {_local(name): value for name, value in attributes.items()})

    def end(self, tag: str) -> Element:
        self.depth -= 1
        return super().end(_local(tag))


def parse_xml(data: bytes, root: str) -> Element:
    """Parse an XML file and check the name of its root element.

    A document type line is accepted, because GE MUSE writes one, but the file it names is not opened; entity
    declarations are refused. Namespace prefixes are dropped from element and attribute names.

    Args:
        data (`bytes`): The file, in any encoding that it declares.
        root (`str`): Expected name of the root element.

    Returns:
        `xml.etree.ElementTree.Element`: The root element.

    Raises:
        EcgFormatError: If the file is not well-formed, declares entities, exceeds the limits, or has another root.

    Example:

    >>> parse_xml(b'<a xmlns="urn:x"><b y="1"/></a>', "a").find("b").get("y")
    '1'
    """
    if len(data) > MAX_XML_BYTES:
        raise EcgFormatError(
            f"Expected an XML file of at most {MAX_XML_BYTES} bytes, got {len(data)}. Split the file."
        )
    # Every tag has a "<" and every attribute a "=" in any encoding; counted first, as each costs memory when parsed.
    if data.count(b"<") + data.count(b"=") > MAX_MARKUP:
        raise EcgFormatError(f"Expected XML with at most {MAX_MARKUP} tags and attributes. This is not an ECG export.")
    parser = DefusedXMLParser(target=_BoundedBuilder(), forbid_dtd=False, forbid_entities=True, forbid_external=True)
    try:
        parser.feed(_readable(data))
        element = parser.close()
    except EcgFormatError:
        raise
    except DefusedXmlException as error:
        raise EcgFormatError(f"Expected XML without entity declarations, got {type(error).__name__}.") from None
    except (ParseError, ValueError, LookupError) as error:
        found = str(error)[:100]
        raise EcgFormatError(f"Expected well-formed XML, got: {found}. The file is damaged or cut short.") from None
    if element.tag != root:
        raise EcgFormatError(f"Expected the root element <{root}>, got <{element.tag[:40]}>.")
    return element


def _readable(data: bytes) -> bytes | str:
    """Return the file as the parser takes it: as text, whose declaration it ignores, if it does not know the encoding.

    Raises:
        UnicodeDecodeError: If the file is not in the encoding that it declares.
    """
    declared = _DECLARED.match(data)
    encoding = _WIDE_ENCODINGS.get(declared[1].decode().lower().replace("_", "-")) if declared else None
    return data.decode(encoding) if encoding else data


def has_root(head: bytes, name: str) -> bool:
    """Return whether the first bytes of a file look like XML with the root element `name`.

    Example:

    >>> has_root(b'<?xml version="1.0"?><!-- export --><RestingECG>', "RestingECG")
    True
    """
    text = decode_text(head, final=False)
    return text.lstrip()[:1] == "<" and re.search(rf"<(\w+:)?{name}[\s/>]", text) is not None


def text_of(element: Element, path: str) -> str:
    """Return the stripped text below `path`, which has to be there.

    Raises:
        EcgFormatError: If there is no such element or it is empty.
    """
    text = (element.findtext(path) or "").strip()
    if not text:
        raise EcgFormatError(f"Expected <{path}> with a value in <{element.tag}>, found none.")
    return text


def base64_samples(text: str | None, what: str) -> bytes:
    """Return the bytes of base64 text with line breaks; other foreign characters are an error, not skipped.

    Raises:
        EcgFormatError: If the text is not base64.

    Example:

    >>> base64_samples(" AQA=\\n", "lead I")
    b'\\x01\\x00'
    """
    try:
        return base64.b64decode("".join((text or "").split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise EcgFormatError(f"Expected base64 samples of {what}, got: {str(error)[:80]}. It is damaged.") from None


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]
