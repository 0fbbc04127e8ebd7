// A plan: the steps of a whole model, run in one call. See qcore.backends.plan for what each step computes.
//
// A Program is its steps; a Placement is a Program for samples of one shape: it knows where each value lies. Neither changes
// once it is made, so any number of threads may run one. Tensors are the Python side's, which keeps them alive.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace qcore {

class Placement;

// Shape of one sample, without the rows.
struct Shape {
  std::vector<int64_t> dim;

  int64_t size() const {
    int64_t n = 1;
    for (const int64_t d : dim) n *= d;
    return n;
  }
  int64_t last() const { return dim.back(); }
  int64_t first() const { return dim.front(); }
};

// What a step sees when it runs.
struct Frame {
  const Placement& placement;
  size_t step;         // its index
  int64_t rows;
  char* const* value;  // where each value lies
  char* workspace;
  int threads;
};

// How a value lies in memory: floats (or doubles), or codes and then a byte a token that is 1 where it held NaN. Codes are
// rows of features, each a token; or images with their channels last, each of them a token.
enum class Kind { floats, rows, images };

class Step {
 public:
  Step(std::vector<int> inputs, int output) : inputs(std::move(inputs)), output(output) {}
  virtual ~Step() = default;
  virtual void run(const Frame& f) const = 0;

  // Bytes of a number of the output.
  virtual int64_t item_nbytes() const { return 4; }
  // What the first input and the output are; other inputs are floats.
  virtual Kind takes() const { return Kind::floats; }
  virtual Kind gives() const { return Kind::floats; }
  // Whether the output may lie where the first input does: it has as many numbers, of the same size.
  virtual bool in_place() const { return false; }
  // Whether the output is the input, under another shape.
  virtual bool renames() const { return false; }
  // Bytes of memory for one row, a multiple of ALIGNMENT.
  virtual int64_t workspace(const Placement&, size_t) const { return 0; }

  const std::vector<int> inputs;
  const int output;

 protected:
  template <class T>
  const T* in(const Frame& f, size_t i = 0) const {
    return reinterpret_cast<const T*>(f.value[inputs[i]]);
  }
  template <class T>
  T* out(const Frame& f) const {
    return reinterpret_cast<T*>(f.value[output]);
  }
  // Codes (rows, shape) and then the bytes of their tokens.
  int8_t* codes_in(const Frame& f) const { return reinterpret_cast<int8_t*>(f.value[inputs[0]]); }
  int8_t* codes_out(const Frame& f) const { return reinterpret_cast<int8_t*>(f.value[output]); }
  uint8_t* nan_in(const Frame& f) const;
  uint8_t* nan_out(const Frame& f) const;
  const Shape& in_shape(const Frame& f, size_t i = 0) const;
  const Shape& out_shape(const Frame& f) const;
};

struct Program {
  std::vector<std::unique_ptr<const Step>> steps;

  int values() const { return int(steps.size()) + 1; }
};

class Placement {
 public:
  // For the value `output`. `shapes` of every value, by number; `bodies`: the placements of each step's bodies.
  Placement(std::shared_ptr<const Program> program, int output, std::vector<Shape> shapes,
         std::vector<std::vector<std::shared_ptr<const Placement>>> bodies);

  // y (rows, output) from x (rows, input), both float.
  void run(const float* x, int64_t rows, float* y, int threads) const;

  // The same in `memory` of rows * row_nbytes() bytes.
  void run_in(const float* x, int64_t rows, float* y, char* memory, int threads) const;

  int64_t row_nbytes() const { return row_nbytes_; }
  const Shape& shape(int value) const { return shapes_[size_t(value)]; }
  const Shape& input() const { return shapes_.front(); }
  const Shape& output() const { return shape(output_); }
  const std::vector<std::shared_ptr<const Placement>>& bodies(size_t step) const { return bodies_[step]; }

 private:
  struct Storage;
  std::vector<Storage> find_storages(std::vector<int>* of) const;
  void place(std::vector<Storage>& storages);

  std::shared_ptr<const Program> program_;
  int output_;
  std::vector<Shape> shapes_;
  std::vector<std::vector<std::shared_ptr<const Placement>>> bodies_;
  std::vector<int64_t> value_at_;      // bytes a row, or INPUT or OUTPUT
  std::vector<int64_t> workspace_at_;  // by step
  int64_t row_nbytes_ = 0;
};

// The tokens of a sample of codes.
inline int64_t tokens_of(const Shape& shape, Kind kind) {
  return kind == Kind::images || shape.last() == 0 ? 1 : shape.size() / shape.last();
}

inline const Shape& Step::in_shape(const Frame& f, size_t i) const { return f.placement.shape(inputs[i]); }
inline const Shape& Step::out_shape(const Frame& f) const { return f.placement.shape(output); }
inline uint8_t* Step::nan_in(const Frame& f) const {
  return reinterpret_cast<uint8_t*>(codes_in(f)) + f.rows * in_shape(f).size();
}
inline uint8_t* Step::nan_out(const Frame& f) const {
  return reinterpret_cast<uint8_t*>(codes_out(f)) + f.rows * out_shape(f).size();
}

}  // namespace qcore
