"""Bytes to text, through an allow-list of charsets (MESSAGE.md).

Python's codec registry is never asked for a name out of a message: it also holds rot13, utf-7, unicode_escape,
idna and others that run code, fold text into control characters, or raise what is no UnicodeError.
"""

from __future__ import annotations

import codecs
import functools

#: What mail calls a charset, lower-cased and without punctuation, and Python's codec for it.  Latin-1 is read as
#: its superset windows-1252, and the older Asian charsets as theirs, as every mail reader and browser does
#: (WHATWG Encoding, "Names and labels").
_CODECS = {
    "utf8": "utf-8",
    "unicode11utf8": "utf-8",
    "usascii": "utf-8",
    "ascii": "utf-8",
    "utf16": "utf-16",
    "utf16le": "utf-16-le",
    "utf16be": "utf-16-be",
    "utf32": "utf-32",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "cp936": "gb18030",
    "hzgb2312": "hz",
    "big5": "big5hkscs",
    "big5hkscs": "big5hkscs",
    "cp950": "cp950",
    "iso2022jp": "iso2022_jp_ext",
    "iso2022jp1": "iso2022_jp_1",
    "iso2022jp2": "iso2022_jp_2",
    "eucjp": "euc_jp",
    "shiftjis": "cp932",
    "sjis": "cp932",
    "xsjis": "cp932",
    "windows31j": "cp932",
    "cp932": "cp932",
    "euckr": "cp949",
    "ksc56011987": "cp949",
    "ksc5601": "cp949",
    "cp949": "cp949",
    "iso2022kr": "iso2022_kr",
    "johab": "johab",
}

#: Charsets of one byte a character, which have a decoding table.
_SINGLE_BYTE = {
    "latin1": "cp1252",
    "l1": "cp1252",
    "iso88591": "cp1252",
    "iso88599": "cp1254",
    "iso885911": "cp874",
    "tis620": "cp874",
    "windows874": "cp874",
    "koi8r": "koi8_r",
    "koi8u": "koi8_u",
    "macintosh": "mac_roman",
    "macroman": "mac_roman",
    "maccyrillic": "mac_cyrillic",
    "cp437": "cp437",
    "ibm437": "cp437",
    "cp850": "cp850",
    "ibm850": "cp850",
    "cp852": "cp852",
    "cp866": "cp866",
    "ibm866": "cp866",
    **{f"iso8859{n}": f"iso8859_{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    "iso88598i": "iso8859_8",
    "iso88598e": "iso8859_8",
    **{f"{prefix}{n}": f"cp{n}" for n in range(1250, 1259) for prefix in ("windows", "cp", "xcp")},
}

_PUNCTUATION = str.maketrans("", "", "-_ .:")


def decode(data: bytes | memoryview, charset: str = "") -> str:
    """*data* as text; never fails.

    :param charset: the declared name, in any case; ``""`` for none.  One that is unknown, or ASCII that is none,
        is UTF-8 if that holds (see :func:`guess`).
    """
    if not charset:
        return guess(data)
    name = charset.lower().translate(_PUNCTUATION)
    codec = _CODECS.get(name)
    if codec == "utf-8":
        return guess(data)
    if codec is not None:
        return str(data, codec, "replace").removeprefix("\ufeff")
    if name in _SINGLE_BYTE:
        return codecs.charmap_decode(data, "strict", _table(_SINGLE_BYTE[name]))[0]
    return guess(data)


def guess(data: bytes | memoryview) -> str:
    """*data* in UTF-8; with replacement where it is damaged; in Latin-1 where nothing beyond ASCII in it is UTF-8.

    A byte order mark is taken as what it says and is no part of the text.
    """
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return str(data, "utf-16", "replace")
        text = str(data, "utf-8", "replace")
        if text.replace("\ufffd", "").isascii():
            return codecs.charmap_decode(data, "strict", _table("cp1252"))[0]
    return text[1:] if text[:1] == "\ufeff" else text


@functools.cache
def _table(codec: str) -> str:
    """The 256 characters of a single-byte codec.

    Undefined bytes are filled in, so that decoding never leaves C for an error handler: that would cost a second
    for every 5 MB of them.
    """
    filler = "latin-1" if codec == "cp1252" else ""
    return "".join(_character(byte, codec) or (filler and _character(byte, filler)) or "\ufffd" for byte in range(256))


def _character(byte: int, codec: str) -> str:
    return bytes([byte]).decode(codec, "ignore")
