#include "text.h"

#include "platform.h"

void print(const char *text)
{
    size_t count = 0;
    while (text[count] != '\0') {
        count++;
    }
    platform_write(text, count);
}

void print_number(size_t number)
{
    char digits[20];
    size_t start = sizeof digits;
    do {
        digits[--start] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    platform_write(&digits[start], sizeof digits - start);
}

void print_hex(uint64_t number)
{
    char digits[16];
    for (size_t i = sizeof digits; i-- > 0; number >>= 4) {
        digits[i] = "0123456789abcdef"[number & 15];
    }
    platform_write(digits, sizeof digits);
}
