# A file's bytes as a C array: cmake -DFROM=descriptor_set.pb -DTO=descriptor_set.c -P embed.cmake
file(READ ${FROM} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes ${hex})
string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes ${bytes})
file(WRITE ${TO} "#include <stddef.h>\nconst unsigned char descriptor_set[] = {\n${bytes}\n};\nconst size_t descriptor_set_size = sizeof descriptor_set;\n")
