"""Code from a project's contracts, generated in a folder that has nothing but them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from apibase.contract.codegen import CodegenError, generate

ANNOTATED = """
syntax = "proto3";
package library.v1;
import "buf/validate/validate.proto";
import "dapr_contract/v1/annotations.proto";
import "google/protobuf/empty.proto";
import "google/type/money.proto";
import "library/v1/book.proto";

// Lends books.
service Library {
  rpc Lend(Book) returns (Fee);
}

service LibraryEvents {
  // A book came back.
  rpc OnReturned(Book) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.topic) = {pubsub_name: "events" name: "books"};
  }
}

message Fee {
  google.type.Money amount = 1 [(buf.validate.field).required = true];
}
"""
BOOK = """
syntax = "proto3";
package library.v1;
message Book {
  string title = 1;
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project of two contracts."""
    return written(tmp_path / "project")


def written(project: Path) -> Path:
    folder = project / "protos" / "library" / "v1"
    folder.mkdir(parents=True)
    (folder / "library.proto").write_text(ANNOTATED)
    (folder / "book.proto").write_text(BOOK)
    return project


@pytest.fixture(scope="module")
def generated_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = written(tmp_path_factory.mktemp("once"))
    assert gen(project) == ALL_FILES
    return project


@pytest.fixture
def generated(generated_once: Path, tmp_path: Path) -> Path:
    """Return a project of two contracts whose code is generated."""
    return shutil.copytree(generated_once, tmp_path / "project")


def gen(project: Path) -> list[str]:
    """Generate, and name the files that this changed."""
    done = generate([project / "protos"], project / "generated")
    return sorted(path.relative_to(project / "generated").as_posix() for path in done.changed)


BOOK_FILES = ["library/v1/book_pb2.py", "library/v1/book_pb2.pyi"]
LIBRARY_FILES = [
    "library/v1/library_pb2.py",
    "library/v1/library_pb2.pyi",
    "library/v1/library_pb2_grpc.py",
    "library/v1/library_pb2_grpc.pyi",
]
ALL_FILES = sorted([*BOOK_FILES, *LIBRARY_FILES, "descriptors.binpb"])


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_projects_contracts_become_code_that_works(generated: Path) -> None:
    assert files(generated / "generated") == ALL_FILES

    program = """
from apibase import App, InvalidRequest
from apibase.middleware.validation import validate
from library.v1 import book_pb2, library_pb2, library_pb2_grpc

class Library(library_pb2_grpc.LibraryServicer):
    async def Lend(self, request, context): ...

class Events(library_pb2_grpc.LibraryEventsServicer):
    async def OnReturned(self, request, context): ...

app = App()
app.add_servicer(Library())
app.add_servicer(Events())
try:
    validate(library_pb2.Fee())
except InvalidRequest as error:
    print(error.violations[0].field)
library_pb2.Fee(amount={"currency_code": "EUR", "units": 1})
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        env={**os.environ, "PYTHONPATH": str(generated / "generated")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("amount\n", 0), done.stderr


def test_the_descriptor_set_has_comments_and_imports(generated: Path) -> None:
    descriptors = FileDescriptorSet.FromString((generated / "generated" / "descriptors.binpb").read_bytes())

    by_name = {file.name: file for file in descriptors.file}
    assert {"library/v1/library.proto", "library/v1/book.proto", "google/type/money.proto"} <= by_name.keys()
    comments = [place.leading_comments for place in by_name["library/v1/library.proto"].source_code_info.location]
    assert " Lends books.\n" in comments


def test_a_listener_takes_an_event_context_and_an_rpc_a_servicer_context(generated: Path) -> None:
    stub = (generated / "generated" / "library" / "v1" / "library_pb2_grpc.pyi").read_text()

    assert "from apibase import EventContext as _EventContext" in stub
    contexts = re.findall(r"def (\w+)\(\s+self,\s+request: [^,]+,\s+context: (\w+),", stub)
    assert contexts == [("Lend", "_ServicerContext"), ("OnReturned", "_EventContext")]


def test_the_stub_of_rpcs_alone_knows_nothing_of_events(project: Path) -> None:
    library = project / "protos" / "library" / "v1" / "library.proto"
    library.write_text(re.sub(r"service LibraryEvents \{.*?\n\}\n", "", ANNOTATED, flags=re.DOTALL))
    gen(project)

    assert "EventContext" not in (project / "generated" / "library" / "v1" / "library_pb2_grpc.pyi").read_text()


def test_generating_again_touches_nothing(generated: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (generated / "generated").rglob("*")}

    assert gen(generated) == []
    assert {path: path.stat().st_mtime_ns for path in (generated / "generated").rglob("*")} == before


def test_a_changed_contract_changes_its_own_files_alone(generated: Path) -> None:
    book = generated / "protos" / "library" / "v1" / "book.proto"
    book.write_text(book.read_text().replace("string title = 1;", "string title = 1;\n  int32 pages = 2;"))

    assert gen(generated) == ["descriptors.binpb", *BOOK_FILES]


def test_files_of_a_contract_that_is_gone_go_with_it(generated: Path) -> None:
    (generated / "protos" / "library" / "v1" / "library.proto").unlink()

    assert gen(generated) == ["descriptors.binpb", *LIBRARY_FILES]
    assert files(generated / "generated") == ["descriptors.binpb", *BOOK_FILES]


def test_a_service_that_is_gone_takes_its_stubs_with_it(generated: Path) -> None:
    library = generated / "protos" / "library" / "v1" / "library.proto"
    library.write_text(re.sub(r"service \w+ \{.*?\n\}\n", "", ANNOTATED, flags=re.DOTALL))

    assert set(gen(generated)) >= {"library/v1/library_pb2_grpc.py", "library/v1/library_pb2_grpc.pyi"}
    assert "library/v1/library_pb2_grpc.py" not in files(generated / "generated")


def test_what_somebody_else_put_into_the_folder_stays(project: Path) -> None:
    others = [
        "main.py",
        "library/__init__.py",
        "library/v1/by_hand.py",
        "vendored/other_pb2.py",
        "google/type/money_pb2.py",
    ]
    for name in others:
        path = project / "generated" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# mine\n")

    gen(project)
    (project / "protos" / "library" / "v1" / "library.proto").unlink()
    gen(project)

    assert set(others) <= set(files(project / "generated"))
    assert all((project / "generated" / name).read_text() == "# mine\n" for name in others)


def test_a_syntax_error_is_named_with_file_and_line_and_leaves_the_output_alone(generated: Path) -> None:
    (generated / "protos" / "library" / "v1" / "book.proto").write_text(
        'syntax = "proto3";\nmessage Book {\n  strin\n}\n'
    )

    with pytest.raises(CodegenError, match=r"library/v1/book.proto:4:1: "):
        gen(generated)

    assert files(generated / "generated") == ALL_FILES


def test_a_type_that_is_nowhere_is_named_with_file_and_line(project: Path) -> None:
    (project / "protos" / "library" / "v1" / "book.proto").write_text(
        'syntax = "proto3";\npackage library.v1;\nmessage Book {\n  Author by = 1;\n}\n'
    )

    with pytest.raises(CodegenError, match=r'library/v1/book.proto:4:3: "Author" is not defined'):
        gen(project)


def test_an_import_that_is_nowhere_is_named_with_the_module_that_would_have_it(project: Path) -> None:
    book = project / "protos" / "library" / "v1" / "book.proto"
    book.write_text('syntax = "proto3";\nimport "some-where/else.proto";\n')

    with pytest.raises(CodegenError) as caught:
        gen(project)

    assert f'{book}: import "some-where/else.proto" is neither one of the contracts nor in an installed package' in str(
        caught.value
    )
    assert "(module some_where.else_pb2)" in str(caught.value)


def test_an_import_in_a_comment_is_none(project: Path) -> None:
    book = project / "protos" / "library" / "v1" / "book.proto"
    book.write_text(f'{BOOK}\n// import "no/where.proto";\n/* Once there was\nimport "no/where/else.proto";\n*/\n')

    assert gen(project)


def test_contracts_of_two_folders_are_one(project: Path) -> None:
    more = project / "more" / "shelf" / "v1"
    more.mkdir(parents=True)
    (more / "book-shelf.proto").write_text(
        ANNOTATED.replace("package library.v1", "package shelf.v1").replace("Book)", "library.v1.Book)")
    )

    done = generate([project / "protos", project / "more"], project / "generated")

    assert done.contracts == 3
    assert "shelf/v1/book_shelf_pb2.py" in files(project / "generated")
    assert "_EventContext" in (project / "generated" / "shelf" / "v1" / "book_shelf_pb2_grpc.pyi").read_text()


def test_a_folder_without_contracts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CodegenError, match=re.escape(f"no .proto file below {tmp_path}")):
        generate([tmp_path], tmp_path / "generated")


def test_a_contract_with_letters_beyond_ascii_is_read_in_any_locale(project: Path) -> None:
    library = project / "protos" / "library" / "v1" / "library.proto"
    library.write_text(ANNOTATED.replace("A book came back.", "Ein Wörterbuch kam zurück — 本."), encoding="utf-8")
    program = f"from pathlib import Path; from apibase.contract.codegen import generate; generate([Path({str(project / 'protos')!r})], Path({str(project / 'generated')!r}))"

    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    stub = (project / "generated" / "library" / "v1" / "library_pb2_grpc.pyi").read_text(encoding="utf-8")
    assert "Ein Wörterbuch kam zurück — 本." in stub
    assert "_EventContext" in stub
