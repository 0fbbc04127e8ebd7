#include "plan.hpp"

#include <cstring>
#include <stdexcept>

#include "memory.hpp"
#include "pool.hpp"

namespace qcore {
namespace {

constexpr int64_t INPUT = -1, OUTPUT = -2;     // lies in the caller's memory
constexpr int64_t CHUNK_NBYTES = 1 << 20;      // of values held at once: as much as a cache keeps
constexpr int64_t MOST_KEPT = 1 << 24;         // bytes that a thread keeps though it needs less

// Memory of the calling thread's own, until its next call.
char* arena(int64_t n) {
  thread_local Memory<char> held;
  thread_local int64_t size = 0;
  if (n > size || (size > MOST_KEPT && n < size / 2)) {
    held.reset();
    size = 0;
    held = allocate<char>(n);
    size = n;
  }
  return held.get();
}

// Bytes of a sample of the output.
int64_t nbytes_of(const Step& step, const Shape& shape) {
  if (step.gives() == Kind::floats) return shape.size() * step.item_nbytes();
  return shape.size() + tokens_of(shape, step.gives());
}

}  // namespace

// A place for values that follow one another in it.
struct Placement::Storage {
  int64_t nbytes;  // a row
  int64_t at;
  int first, last;  // steps between which it is in use
};

Placement::Placement(std::shared_ptr<const Program> program, int output, std::vector<Shape> shapes,
               std::vector<std::vector<std::shared_ptr<const Placement>>> bodies)
    : program_(std::move(program)), output_(output), shapes_(std::move(shapes)), bodies_(std::move(bodies)) {
  if (int(shapes_.size()) != program_->values() || bodies_.size() != program_->steps.size()) {
    throw std::invalid_argument("a shape for every value and bodies for every step");
  }
  std::vector<int> storage_of;
  std::vector<Storage> storages = find_storages(&storage_of);
  place(storages);
  for (const int storage : storage_of) value_at_.push_back(storages[size_t(storage)].at);
  for (size_t i = storages.size() - program_->steps.size(); i < storages.size(); ++i) {  // those of workspaces
    workspace_at_.push_back(storages[i].at);
  }
}

std::vector<Placement::Storage> Placement::find_storages(std::vector<int>* of) const {
  const auto& steps = program_->steps;
  const int count = int(steps.size());
  std::vector<int> last_use(shapes_.size(), -1);
  for (int i = 0; i < count; ++i) {
    for (const int value : steps[size_t(i)]->inputs) last_use[size_t(value)] = i;
  }
  last_use[size_t(output_)] = count;
  std::vector<Storage> found{{0, INPUT, 0, count}};
  of->assign(1, 0);
  for (int i = 0; i < count; ++i) {
    const Step& step = *steps[size_t(i)];
    const int before = (*of)[size_t(step.inputs[0])], last = last_use[size_t(step.output)];
    // The caller's input is not written to; a value that someone reads later is not either.
    const bool free = before != 0 && found[size_t(before)].last <= i;
    if (step.renames() || (step.in_place() && free)) {
      Storage& storage = found[size_t(before)];
      storage.last = storage.last > last ? storage.last : last;
      of->push_back(before);
    } else {
      const int64_t nbytes = round_up(nbytes_of(step, shapes_[size_t(step.output)]), ALIGNMENT);
      of->push_back(int(found.size()));
      found.push_back({nbytes, 0, i, last > i ? last : i});
    }
  }
  const int result = (*of)[size_t(output_)];
  if (result != 0) found[size_t(result)].at = OUTPUT;
  for (int i = 0; i < count; ++i) found.push_back({steps[size_t(i)]->workspace(*this, size_t(i)), 0, i, i});
  return found;
}

void Placement::place(std::vector<Storage>& storages) {
  for (size_t i = 0; i < storages.size(); ++i) {
    Storage& s = storages[i];
    if (s.at < 0) continue;
    for (bool moved = true; moved;) {  // the first gap between those that are in use at the same time
      moved = false;
      for (size_t j = 0; j < i; ++j) {
        const Storage& other = storages[j];
        const bool together = other.at >= 0 && other.first <= s.last && s.first <= other.last;
        if (together && other.at < s.at + s.nbytes && s.at < other.at + other.nbytes) {
          s.at = other.at + other.nbytes;
          moved = true;
        }
      }
    }
    if (s.at + s.nbytes > row_nbytes_) row_nbytes_ = s.at + s.nbytes;
  }
}

void Placement::run_in(const float* x, int64_t rows, float* y, char* memory, int threads) const {
  std::vector<char*> value;
  value.reserve(value_at_.size());
  for (const int64_t at : value_at_) {
    // The input is read alone; steps see it through const pointers.
    char* outside = at == INPUT ? const_cast<char*>(reinterpret_cast<const char*>(x)) : reinterpret_cast<char*>(y);
    value.push_back(at < 0 ? outside : memory + at * rows);
  }
  for (size_t i = 0; i < program_->steps.size(); ++i) {
    program_->steps[i]->run({*this, i, rows, value.data(), memory + workspace_at_[i] * rows, threads});
  }
  if (value_at_[size_t(output_)] == INPUT) {
    std::memcpy(y, x, sizeof(float) * size_t(rows * output().size()));
  }
}

void Placement::run(const float* x, int64_t rows, float* y, int threads) const {
  if (rows == 0) return;
  const int64_t fit = CHUNK_NBYTES / (row_nbytes_ + 1) + 1, most = rows < fit ? rows : fit;
  const int64_t chunks = (rows + most - 1) / most, each = (rows + chunks - 1) / chunks;
  const int64_t in = input().size(), out = output().size();
  // Samples are independent: with enough chunks for every thread none waits for another at each step.
  const bool apart = threads > 1 && chunks >= threads;
  auto chunk = [&](int64_t i) {
    const int64_t first = i * each, n = rows - first < each ? rows - first : each;
    if (n > 0) run_in(x + first * in, n, y + first * out, arena(n * row_nbytes_), apart ? 1 : threads);
  };
  parallel_for(apart ? threads : 1, chunks, chunk);
}

}  // namespace qcore
