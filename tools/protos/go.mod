// Pins the module that carries buf/validate/validate.proto: the one imported contract that no Python package ships.
module apibase.tools/protos

go 1.21

require github.com/bufbuild/protovalidate v1.2.2
