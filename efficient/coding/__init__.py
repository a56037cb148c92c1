"""Entropy coding and the file of a compressed network; NumPy arrays and bytes only."""

from efficient.coding.bits import pack_bits as pack_bits
from efficient.coding.bits import unpack_bits as unpack_bits
from efficient.coding.compressed_file import CorruptFileError as CorruptFileError
from efficient.coding.compressed_file import read as read
from efficient.coding.compressed_file import write as write
from efficient.coding.relative_index import decode_gaps as decode_gaps
from efficient.coding.relative_index import encode_gaps as encode_gaps
from efficient.coding.report import Report as Report
from efficient.coding.report import TensorReport as TensorReport
from efficient.coding.tensors import Dense as Dense
from efficient.coding.tensors import Shared as Shared
