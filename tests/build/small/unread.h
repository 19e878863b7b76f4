// File: unread.h
//
// A header that every kernel of the small package is given and none includes.
#pragma once
